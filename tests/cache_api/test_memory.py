"""What a process remembers of its answers: the same as asking anew, never after the cache went on, never after something was erased."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from services.cache_api.app import create
from services.cache_api.memory import Memory
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from tests.cache_api.conftest import TOOLS, Cache, call, item, tool, trajectory

AS_OF = "2026-01-01T00:00:00Z"
RUN = [
    ("get_weather", {"city": "Oslo"}, "snow"),
    ("transfer", {"account": "A1", "amount": 30}, "done"),
    ("get_balance", {"account": "A1"}, "70"),
]
ASKED = item(*[call(name, arguments) for name, arguments, _ in RUN])
Serve = Callable[..., Awaitable[httpx2.AsyncClient]]


@pytest.fixture
def app(cache_settings: CacheSettings) -> FastAPI:
    return create(cache_settings)


@pytest.fixture
def key(api_key: Callable[..., str]) -> str:
    return api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE, Scope.ADMIN))


@pytest.fixture
async def town(app: FastAPI, serve: Serve, key: str) -> Cache:
    http = await serve(app, key)
    await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})
    town = Cache(http, "town")
    await town.record(trajectory("r1", RUN))
    return town


def memory(app: FastAPI) -> Memory:
    return app.state.parts.direct.memory


async def pins(town: Cache) -> dict[str, Any]:
    cache = await town.get()
    return {"revision": cache["revision"], "view": cache["view"], "as_of": AS_OF}


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("select", ["majority", "sample"])
async def test_what_is_remembered_is_what_is_answered(app: FastAPI, town: Cache, select: str, pinned: bool):
    await town.record(trajectory("r2", [("get_weather", {"city": "Oslo"}, "rain")]))
    drawn = [item(call("get_weather", {"city": "Oslo"}), draw={"task": "t", "episode": n}) for n in range(12)]
    missed = item(call("get_weather", {"city": "Rome"}), scenario="s2")
    request: dict[str, Any] = {"select": select, "run_seed": 3} | (await pins(town) if pinned else {"as_of": AS_OF})
    found = [await town.look(ASKED, missed, *drawn, **request) for _ in range(4)]
    assert memory(app).bytes > 0
    assert all(one == found[0] for one in found)
    contents = {result["result"]["content"] for one in found[0]["items"][2:] for result in one["results"]}
    assert len(contents) == (2 if select == "sample" else 1)


async def test_part_of_a_request_may_be_remembered(app: FastAPI, town: Cache):
    await town.look(ASKED)
    await town.look(ASKED)
    known = memory(app).bytes
    other = item(call("get_weather", {"city": "Rome"}))
    answer = await town.look(other, ASKED, other)
    assert [one["results"][0]["outcome"] for one in answer["items"]] == ["miss", "exact", "miss"]
    assert memory(app).bytes > known


async def test_what_was_recorded_or_removed_since_is_seen_at_once(town: Cache):
    weather = item(call("get_weather", {"city": "Oslo"}))
    for _ in range(3):
        assert (await town.results(weather))[0]["result"]["content"] == "snow"
    for number in range(2):
        await town.record(trajectory(f"sun-{number}", [("get_weather", {"city": "Oslo"}, "sun")]))
    assert (await town.results(weather))[0]["result"]["content"] == "sun"
    for source in ("sun-0", "sun-1", "r1"):
        await town.http.post(f"{town.url}/purges", json={"source": source})
    assert (await town.results(weather))[0]["outcome"] == "miss"


async def test_no_replica_gives_what_was_said_to_be_erased(
    app: FastAPI, town: Cache, cache_settings: CacheSettings, serve: Serve, key: str
):
    replica = Cache(await serve(create(cache_settings), key), "town")
    await town.record(trajectory("r2", [("get_weather", {"city": "Lima"}, "mist")]))
    at = await pins(town)
    for one in (town, replica) * 3:
        assert (await one.results(ASKED, **at))[0]["result"]["content"] == "snow"
    erased = await town.http.post(f"{town.url}/purges", json={"source": "r1", "erase": True})
    assert erased.status_code == 200
    for one in (replica, town):
        assert (await one.look(ASKED, status=410, **at))["type"].endswith("revision-erased")
    assert memory(app).bytes == 0
    # What is left is answered by the short way and remembered as before.
    left = item(call("get_weather", {"city": "Lima"}))
    for _ in range(3):
        assert (await town.results(left))[0]["result"]["content"] == "mist"
    assert memory(app).bytes > 0


async def test_a_deleted_cache_is_forgotten(town: Cache):
    at = await pins(town)
    for _ in range(3):
        await town.look(ASKED, **at)
    assert (await town.http.delete(town.url)).status_code == 204
    assert (await town.look(ASKED, status=404, **at))["type"].endswith("no-such-cache")


async def test_ages_are_told_anew_and_a_ttl_is_kept(app: FastAPI, town: Cache):
    tools = [*TOOLS, tool("get_price", {"of": {"type": "string"}}, ["of"], mutating=False, scope="none", ttl_s=3600)]
    price = {"call": {"name": "get_price", "arguments": {"of": "tea"}}, "result": {"content": "3", "is_error": False}}
    line = {"scenario": "s1", "step": 0, "recorded_at": "2026-01-01T00:00:00Z"}
    await town.record(trajectory("r2", [("get_price", {"of": "coal"}, "9")], tools=tools), price | line | {"source": "p1"})
    weather = {"call": {"name": "get_weather", "arguments": {"city": "Bern"}}, "result": {"content": "fog", "is_error": False}}
    await town.record(weather | line | {"source": "w1"})
    asked = [item(call("get_price", {"of": "tea"})), item(call("get_weather", {"city": "Bern"}))]
    for hour, outcome in ((0, "exact"), (1, "exact"), (2, "miss")):
        found = await town.results(*asked, as_of=f"2026-01-01T0{hour}:00:00Z")
        assert [one["outcome"] for one in found] == [outcome, "exact"]
        assert found[1]["age_s"] == 3600 * hour


async def test_remembered_answers_are_counted(app: FastAPI, town: Cache):
    for _ in range(5):
        await town.look(ASKED, item(call("get_weather", {"city": "Rome"})))
    await app.state.parts.tally.flush()
    lookups = {one["tool"]: one["outcomes"] for one in (await town.get("/stats"))["lookups"]}
    assert lookups["get_weather"] == {"exact": 5, "miss": 5}
    coverage = await town.get("/coverage")
    assert [(one["arguments"], one["misses"]) for one in coverage["items"]] == [({"city": "Rome"}, 5)]


async def test_a_memory_stays_within_its_bytes(serve: Serve, key: str, cache_settings: CacheSettings):
    app = create(cache_settings.model_copy(update={"memory_bytes": 20_000}))
    http = await serve(app, key)
    await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})
    town = Cache(http, "town")
    cities = [f"c{number}" for number in range(40)]
    await town.record(trajectory("r1", [("get_weather", {"city": city}, city) for city in cities]))
    for _ in range(2):
        for city in cities:
            assert (await town.one("get_weather", {"city": city}))["result"]["content"] == city
            assert memory(app).bytes <= 20_000
    assert memory(app).bytes > 10_000
