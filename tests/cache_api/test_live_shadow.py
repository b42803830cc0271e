"""Mode `shadow`: served as in replay, and beside it a sampled share asked live and compared."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings
from tests.cache_api.bank import Bank, http_app, mcp_app
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, tool, trajectory

RATE = tool("get_rate", {}, [], mutating=False, stochastic=True, scope="none", volatile=["/result/at"])
READ = call("get_balance", {"account": "A1"})
WEATHER = call("get_weather", {"city": "Bern"})
WRITE = call("transfer", {"account": "A1", "amount": 30})
Open = Callable[..., Awaitable[Cache]]


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture(params=["http", "mcp"])
async def open_cache(request: pytest.FixtureRequest, bank: Bank, settings: ServiceSettings, api_key: Any, serve: Serve) -> Open:
    async def make(share: float = 1.0, **more: Any) -> Cache:
        url = str((await serve(mcp_app(bank) if request.param == "mcp" else http_app(bank))).base_url).rstrip("/")
        server = {"kind": "mcp", "url": f"{url}/mcp"} if request.param == "mcp" else url
        app = create(CacheSettings.model_validate(settings.model_dump() | {"live_servers": {"bank": server}, "live_timeout_s": 2.0}))
        http = await serve(app, api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE)))
        body = {"name": "town", "tools": [*TOOLS, RATE], "settings": {"live_server": "bank", "shadow_share": share, **more}}
        assert (await http.post("/v1/caches", json=body)).status_code == 201
        cache = Cache(http, "town")
        cities = [("get_weather", {"city": f"C{n}"}, f"sunny in C{n}") for n in range(40)]
        await cache.record(
            trajectory(
                "t0",
                [
                    (READ["name"], READ["arguments"], "100"),
                    (WEATHER["name"], WEATHER["arguments"], "rain in Bern"),
                    (WRITE["name"], WRITE["arguments"], "done, receipt R7000"),
                    (READ["name"], READ["arguments"], "70"),
                    *cities,
                ],
            )
        )
        return cache

    return make


def turn(*calls: dict[str, Any], episode: int = 0, **more: Any) -> dict[str, Any]:
    return item(*calls, draw={"task": "t1", "episode": episode}, session=f"run.0.{episode}", **more)


async def shadow(cache: Cache, *items: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    return await cache.results(*items, mode="shadow", run="run", **request)


async def compared(cache: Cache, wanted: int) -> dict[str, dict[str, Any]]:
    """Divergence by tool, once so many comparisons were made or failed: they go on after the answers."""
    async with asyncio.timeout(20):
        while True:
            found = (await cache.get("/divergence"))["items"]
            if sum(one["compared"] + one["failed"] for one in found) >= wanted:
                return {one["tool"]: one for one in found}
            await asyncio.sleep(0.05)


async def test_served_as_in_replay_and_compared_beside_it(open_cache: Open, bank: Bank):
    cache = await open_cache()
    calls = [READ, WEATHER, WRITE, READ, call("get_weather", {"city": "Nowhere"})]
    replayed = await cache.results(item(*calls))
    shadowed = await shadow(cache, turn(*calls))
    assert [r | {"age_s": 0} for r in shadowed] == [r | {"age_s": 0} for r in replayed]
    found = await compared(cache, 2)
    assert (found["get_balance"]["compared"], found["get_balance"]["diverged"]) == (1, 0)
    weather = found["get_weather"]
    assert (weather["tier"], weather["compared"], weather["diverged"], weather["rate"]) == ("exact", 1, 1, 1.0)
    assert 0 < weather["interval"][0] < weather["interval"][1] == 1
    example = weather["example"]
    assert (example["arguments"], example["live"]["content"]) == ({"city": "Bern"}, "sunny in Bern")
    assert example["entry"] == shadowed[1]["entry"]["id"]
    # Never what changes something, never behind a change, never a miss; and nothing of it is stored.
    assert sorted(name for _, name in bank.made) == ["get_balance", "get_weather"]
    assert (await cache.get())["entries"] == 44


async def test_the_sample_is_drawn_with_the_runs_seed(open_cache: Open, bank: Bank):
    cache = await open_cache(share=0.3)
    cities = [call("get_weather", {"city": f"C{n}"}) for n in range(40)]
    await shadow(cache, turn(*cities), run_seed=1)
    made = len((await _settled(bank)).made)
    assert 3 <= made <= 22
    await shadow(cache, turn(*cities), run_seed=1)
    assert len((await _settled(bank)).made) == 2 * made
    nothing = await open_cache_without(cache)
    await shadow(nothing, turn(*cities), run_seed=1)
    assert len((await _settled(bank)).made) == 2 * made


async def _settled(bank: Bank) -> Bank:
    before = -1
    while before != len(bank.made):
        before = len(bank.made)
        await asyncio.sleep(0.5)
    return bank


async def open_cache_without(cache: Cache) -> Cache:
    """A cache beside it that samples nothing."""
    body = {"name": "other", "tools": TOOLS, "settings": {"live_server": "bank", "shadow_share": 0}}
    assert (await cache.http.post("/v1/caches", json=body)).status_code == 201
    other = Cache(cache.http, "other")
    await other.record(trajectory("t0", [("get_weather", {"city": "C1"}, "sunny in C1")]))
    return other


async def test_a_server_that_is_away_costs_nobody_an_answer(open_cache: Open, bank: Bank):
    cache = await open_cache()
    bank.broken = True
    assert [r["outcome"] for r in await shadow(cache, turn(WEATHER))] == ["exact"]
    found = await compared(cache, 1)
    bank.broken = False
    assert (found["get_weather"]["compared"], found["get_weather"]["failed"], found["get_weather"]["rate"]) == (0, 1, None)


async def test_a_budget_bounds_the_comparisons(open_cache: Open, bank: Bank):
    cache = await open_cache(live_budget=5)
    cities = [call("get_weather", {"city": f"C{n}"}) for n in range(40)]
    await shadow(cache, turn(*cities))
    await compared(cache, 5)
    assert len((await _settled(bank)).made) == 5
