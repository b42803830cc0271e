"""Mode `fallthrough`: recorded where it can be, live where it must be and would be true."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from tests.cache_api.bank import Bank, http_app, mcp_app
from tests.cache_api.conftest import TOOLS, Cache, Serve, call, item, tool, trajectory
from tests.cache_api.test_crash import ready

RATE = tool("get_rate", {}, [], mutating=False, stochastic=True, scope="none")
READ = call("get_balance", {"account": "A1"})
WEATHER = call("get_weather", {"city": "Bern"})
CACHED = call("transfer", {"account": "A1", "amount": 10})
WRITE = call("transfer", {"account": "A1", "amount": 30})
RECORDED = trajectory(
    "t0", [("get_balance", {"account": "A1"}, "100"), ("transfer", {"account": "A1", "amount": 10}, "done, receipt R9000")]
)
Open = Callable[..., Awaitable[Cache]]


@pytest.fixture
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    stdio = getattr(request.node, "callspec", None) is not None and request.node.callspec.params.get("kind") == "stdio"
    return Bank(tmp_path / "calls.log" if stdio else None)


@pytest.fixture
def kind() -> str:
    return "http"


@pytest.fixture
async def server(kind: str, bank: Bank, serve: Serve) -> Any:
    """What the configuration says of the live server."""
    match kind:
        case "mcp":
            return {"kind": "mcp", "url": str((await serve(mcp_app(bank))).base_url).rstrip("/") + "/mcp"}
        case "stdio":
            env = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            return {"kind": "mcp", "command": sys.executable, "args": ["-m", "tests.cache_api.bank", str(bank._log)], "env": env}
        case _:
            return str((await serve(http_app(bank))).base_url)


@pytest.fixture
def open_cache(server: Any, settings: ServiceSettings, api_key: Any, serve: Serve) -> Open:
    async def make(**cache_settings: Any) -> Cache:
        app = create(CacheSettings.model_validate(settings.model_dump() | {"live_servers": {"bank": server}, "live_timeout_s": 3.0}))
        http = await serve(app, api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE)))
        body = {"name": "town", "tools": [*TOOLS, RATE], "settings": {"live_server": "bank", **cache_settings}}
        assert (await http.post("/v1/caches", json=body)).status_code == 201
        cache = Cache(http, "town")
        await cache.record(RECORDED)
        return cache

    return make


@pytest.fixture
async def cache(open_cache: Open) -> Cache:
    return await open_cache()


def turn(*calls: dict[str, Any], episode: int = 0, **more: Any) -> dict[str, Any]:
    return item(*calls, draw={"task": "t1", "episode": episode}, session=f"run.0.{episode}", **more)


async def fall(cache: Cache, *items: dict[str, Any], run: str = "run", **request: Any) -> dict[str, Any]:
    return await cache.look(*items, mode="fallthrough", run=run, revision=1, **request)


def only(answer: dict[str, Any]) -> dict[str, Any]:
    ((result,),) = [found["results"] for found in answer["items"]]
    return result


async def switched(cache: Cache, view: str) -> None:
    """Until the cache reads through a view."""
    for _ in range(400):
        if (await cache.get())["view"] == view:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the view is not built")


each_kind = pytest.mark.parametrize("kind", ["http", "mcp", "stdio"])


@each_kind
async def test_what_is_recorded_is_served_and_what_is_missing_is_made_live_and_stored(cache: Cache, bank: Bank):
    answer = await fall(cache, turn(READ, WEATHER))
    read, weather = answer["items"][0]["results"]
    assert (read["live"], read["entry"]["source"]) == (False, "t0")
    assert (weather["outcome"], weather["live"], weather["fidelity"], weather["result"]["content"]) == ("exact", True, 1.0, "sunny in Bern")
    assert (weather["entry"]["source"], weather["entry"]["step"]) == ("run/t1/0", 0)
    assert bank.calls == 1

    again = only(await fall(cache, turn(WEATHER, episode=1)))
    assert (again["live"], again["entry"]) == (False, weather["entry"])
    assert bank.calls == 1
    # A run sees its own writes and no other's; whoever reads the newest revision sees all.
    assert only(await fall(cache, turn(WEATHER) | {"session": "b.0.0"}, run="b"))["live"] is True
    assert (await cache.one("get_weather", {"city": "Bern"}))["outcome"] == "exact"
    assert (await cache.one("get_weather", {"city": "Bern"}, revision=1))["outcome"] == "miss"
    assert bank.calls == 2


@each_kind
async def test_a_session_is_live_as_long_as_its_changes_are(cache: Cache, bank: Bank):
    first = await fall(cache, turn(WRITE))
    assert only(first)["result"]["content"] == "done, receipt R7000"
    second = await fall(cache, turn(READ, state=first["items"][0]["state"]))
    assert (only(second)["live"], only(second)["result"]["content"]) == (True, "70")
    # Another episode has a session of its own.
    other = await fall(cache, turn(call("transfer", {"account": "A1", "amount": 5}), READ, episode=1))
    assert [r["result"]["content"] for r in other["items"][0]["results"]] == ["done, receipt R9500", "95"]
    assert bank.calls == 4
    assert [r["outcome"] for r in await cache.results(item(WRITE, READ))] == ["exact", "exact"]


async def test_behind_a_change_that_was_answered_from_a_recording_nothing_is_asked_live(cache: Cache, bank: Bank):
    started = await fall(cache, turn(CACHED))
    assert (only(started)["outcome"], only(started)["live"]) == ("exact", False)
    state = started["items"][0]["state"]
    read = only(await fall(cache, turn(READ, state=state)))
    assert (read["outcome"], read["miss"], read["live"]) == ("miss", "not_true_live", False)
    assert "a live tool would not know" in read["result"]["content"]
    # What depends on nothing is asked live all the same, and a change that is not made leaves the rest unknown.
    later = await fall(cache, turn(WEATHER, WRITE, READ, state=state))
    weather, write, read = later["items"][0]["results"]
    assert (weather["live"], write["miss"], read["miss"]) == (True, "not_true_live", "unknown_change")
    assert [name for _, name in bank.made] == ["get_weather"]


async def test_a_history_says_which_calls_were_live(cache: Cache, bank: Bank):
    wrote = only(await fall(cache, turn(WRITE)))
    past = {"call": WRITE, "outcome": "exact", "result": wrote["result"]}
    read = only(await fall(cache, turn(READ, history=[past | {"live": True}])))
    assert (read["live"], read["result"]["content"], read["entry"]["step"]) == (True, "70", 1)
    unknown = only(await fall(cache, turn(READ, history=[past | {"call": CACHED, "live": False}], episode=3)))
    assert unknown["miss"] == "not_true_live"
    assert bank.calls == 2


async def test_a_live_token_of_another_session_counts_for_nothing(cache: Cache, bank: Bank):
    wrote = await fall(cache, turn(WRITE))
    read = only(await fall(cache, turn(READ, episode=7, state=wrote["items"][0]["state"])))
    assert read["miss"] == "not_true_live"
    assert bank.calls == 1


@each_kind
async def test_of_many_identical_first_calls_one_is_made(cache: Cache, bank: Bank):
    bank.slow_s = 0.3
    together = [turn(WEATHER, episode=n) for n in range(8)]
    apart = [fall(cache, turn(WEATHER, episode=8 + n)) for n in range(16)]
    answers = await asyncio.gather(fall(cache, *together), *apart)
    results = [result for answer in answers for found in answer["items"] for result in found["results"]]
    assert [r["result"]["content"] for r in results] == ["sunny in Bern"] * 24
    assert [r["outcome"] for r in results] == ["exact"] * 24
    assert sum(r["live"] for r in results) == 1
    assert len({r["entry"]["id"] for r in results}) == 1
    assert bank.calls == 1


async def test_what_changes_something_or_differs_each_time_is_made_by_everybody(cache: Cache, bank: Bank):
    bank.slow_s = 0.1
    rate = call("get_rate", {})
    answers = await asyncio.gather(*(fall(cache, turn(rate, WRITE, episode=n)) for n in range(4)))
    assert all(result["live"] for answer in answers for result in answer["items"][0]["results"])
    assert len({answer["items"][0]["results"][0]["result"]["content"] for answer in answers}) == 4
    assert sorted(name for _, name in bank.made) == ["get_rate"] * 4 + ["transfer"] * 4


async def test_reads_of_a_wave_are_live_before_its_change(cache: Cache, bank: Bank):
    other = call("get_balance", {"account": "A2"})
    results = (await fall(cache, turn(other, WRITE, other)))["items"][0]["results"]
    assert [r["result"]["content"] for r in results] == ["100", "done, receipt R7000", "70"]
    assert [r["entry"]["step"] for r in results] == [0, 1, 2]


async def test_a_budget_is_never_exceeded_and_a_miss_says_so(open_cache: Open, bank: Bank):
    cache = await open_cache(live_budget=3)
    cities = [call("get_weather", {"city": city}) for city in "ABCDEF"]
    answers = await asyncio.gather(*(fall(cache, turn(city, episode=n)) for n, city in enumerate(cities)))
    results = [only(answer) for answer in answers]
    assert sum(r["live"] for r in results) == 3
    assert [r["miss"] for r in results if not r["live"]] == ["budget_used_up"] * 3
    assert bank.calls == 3
    # Its own writes go on being served; a request may allow more, and another run has its own.
    served = next(city for city, result in zip(cities, results, strict=True) if result["live"])
    assert only(await fall(cache, turn(served, episode=9)))["outcome"] == "exact"
    assert only(await fall(cache, turn(call("get_weather", {"city": "G"}), episode=9), budget=4))["live"] is True
    assert only(await fall(cache, turn(call("get_weather", {"city": "H"}), episode=9), budget=4))["miss"] == "budget_used_up"
    assert only(await fall(cache, turn(cities[0]) | {"session": "b.0.0"}, run="b"))["live"] is True
    none = await fall(cache, *(turn(WEATHER, episode=20 + n) for n in range(5)), budget=0)
    assert [found["results"][0]["miss"] for found in none["items"]] == ["budget_used_up"] * 5


@pytest.mark.parametrize("kind", ["http", "mcp"])
async def test_a_server_that_fails_stores_nothing_and_holds_up_nobody(cache: Cache, bank: Bank):
    bank.broken = True
    problem = await fall(cache, turn(WEATHER), status=503)
    assert problem["type"] == "urn:cacherl:problem:live-tool-away"
    assert (await cache.get())["entries"] == 2
    bank.broken = False
    started = time.monotonic()
    assert only(await fall(cache, turn(WEATHER, episode=1)))["live"] is True
    assert time.monotonic() - started < 2.5, "the failed leader kept its lease"


@pytest.mark.parametrize("kind", ["http", "mcp"])
async def test_after_a_change_without_an_answer_a_session_begins_anew_or_is_lost(cache: Cache, bank: Bank):
    bank.broken = True
    assert (await fall(cache, turn(WRITE), status=503))["type"].endswith("live-tool-away")
    bank.broken = False
    bank.balance["run.0.0"] = 70  # it had happened, without anybody knowing
    wrote = await fall(cache, turn(WRITE))
    assert only(wrote)["result"]["content"] == "done, receipt R7000"
    state = wrote["items"][0]["state"]
    bank.broken = True
    more = turn(call("transfer", {"account": "A1", "amount": 1}), state=state)
    await fall(cache, more, status=503)
    bank.broken = False
    bank.made.clear()
    assert (await fall(cache, more, status=409))["type"].endswith("live-session-lost")
    assert bank.made == []
    # Run again from its start, the episode is true.
    again = await fall(cache, turn(call("transfer", {"account": "A1", "amount": 2})))
    assert only(again)["result"]["content"] == "done, receipt R9800"
    assert only(again)["entry"]["source"] == "run/t1/0~2"


@pytest.mark.parametrize(("kind", "name", "text"), [("mcp", "refused", "no tool refused"), ("http", "other", "no tool other")])
async def test_what_a_server_refuses_is_what_the_tool_says(cache: Cache, bank: Bank, name: str, text: str):
    said = only(await fall(cache, turn(call(name, {}))))
    assert (said["outcome"], said["live"], said["result"]) == ("exact", True, {"content": text, "is_error": True})


async def test_in_the_papers_preset_the_key_is_the_call_alone(cache: Cache, bank: Bank):
    first = only(await fall(cache, turn(WEATHER), preset="paper"))
    assert (first["live"], first["agreement"]) == (True, {"scenario": True, "state": True, "schema": True})
    again = only(await fall(cache, turn(WEATHER, episode=1), preset="paper"))
    assert (again["live"], again["agreement"]) == (False, None)
    assert bank.calls == 1


async def test_a_run_sees_its_writes_through_its_own_view_when_the_cache_has_another(cache: Cache, bank: Bank):
    pinned = (await cache.get())["view"]
    made = (await cache.http.post(f"{cache.url}/views", json={"annotations": {"search_notes": {"mutating": False}}})).json()
    await switched(cache, made["id"])
    assert only(await fall(cache, turn(WEATHER), view=pinned))["live"] is True
    assert only(await fall(cache, turn(WEATHER, episode=1), view=pinned))["live"] is False
    assert (await cache.one("get_weather", {"city": "Bern"}))["outcome"] == "exact"
    assert bank.calls == 1


async def test_a_live_mode_needs_the_scope_to_write(cache: Cache, bank: Bank, api_key: Any):
    headers = {"Authorization": f"Bearer {api_key(scopes=(Scope.CACHE_READ,))}"}
    for mode in ("record", "fallthrough", "shadow"):
        body = {"items": [turn(WEATHER)], "mode": mode, "run": "run"}
        answer: httpx2.Response = await cache.http.post(f"{cache.url}/lookups", json=body, headers=headers)
        assert (answer.status_code, bank.calls) == (403, 0)


async def test_a_leader_that_is_killed_frees_its_followers(
    cache: Cache, bank: Bank, server: str, database_dsns: DatabaseDsns, pepper: str, api_key: Any
):
    """kill -9 of a second replica in the middle of its live call."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    env = os.environ | {
        "CACHERL_DATABASE_URL": database_dsns.app,
        "CACHERL_PEPPER": pepper,
        "CACHERL_PORT": str(port),
        "CACHERL_LIVE_SERVERS": f'{{"bank": "{server}"}}',
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "services.kit.serve", "cache_api"]
    replica = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)  # noqa: ASYNC220 - it starts at once
    url = f"http://127.0.0.1:{port}"
    try:
        await ready(url)
        bank.slow_s = 20.0
        headers = {"Authorization": f"Bearer {api_key()}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
            body = {"items": [turn(WEATHER)], "mode": "fallthrough", "run": "run", "revision": 1}
            leading = asyncio.create_task(http.post(f"{cache.url}/lookups", json=body))
            async with asyncio.timeout(20):
                await bank.asked.wait()
            bank.slow_s = 0.0
            following = [asyncio.create_task(fall(cache, turn(WEATHER, episode=1 + n))) for n in range(4)]
            # They wait for as long as the leader lives: longer than a lease.
            done, _ = await asyncio.wait(following, timeout=4.5)
            assert (done, bank.calls) == (set(), 1)
            os.kill(replica.pid, signal.SIGKILL)
            replica.wait()
            killed = time.monotonic()
            answers = await asyncio.gather(*following)
            assert time.monotonic() - killed < 8, "the followers waited too long"
            assert isinstance((await asyncio.gather(leading, return_exceptions=True))[0], httpx2.TransportError)
    finally:
        replica.kill()
        replica.wait()
    assert [only(answer)["result"]["content"] for answer in answers] == ["sunny in Bern"] * 4
    assert bank.calls == 2


async def test_who_cannot_go_live_is_served_what_the_run_wrote(cache: Cache, bank: Bank):
    wrote = await fall(cache, turn(WRITE))
    read = only(await fall(cache, turn(READ, state=wrote["items"][0]["state"])))
    # Within the budget everybody changes his own session; beyond it the same change in the same state is known.
    own = await fall(cache, turn(WRITE, episode=1))
    assert (only(own)["live"], bank.calls) == (True, 3)
    borrowed = await fall(cache, turn(WRITE, episode=2), budget=0)
    assert (only(borrowed)["live"], only(borrowed)["outcome"]) == (False, "exact")
    known = only(await fall(cache, turn(READ, episode=2, state=borrowed["items"][0]["state"]), budget=0))
    assert (known["live"], known["entry"]["id"]) == (False, read["entry"]["id"])
    assert bank.calls == 3


async def test_a_view_that_ages_recordings_takes_the_runs_own_fresh_answer(open_cache: Open, bank: Bank):
    cache = await open_cache()
    old = {"call": WEATHER, "result": {"content": "snow in Bern"}, "scenario": "s1", "source": "o", "step": 0}
    await cache.record(old | {"recorded_at": "2020-01-01T00:00:00Z"})
    made = (await cache.http.post(f"{cache.url}/views", json={"annotations": {"get_weather": {"ttl_s": 3600}}})).json()
    await switched(cache, made["id"])
    pins = {"mode": "fallthrough", "run": "run"}
    first = (await cache.results(turn(WEATHER), **pins))[0]
    assert (first["live"], first["result"]["content"]) == (True, "sunny in Bern")
    revision = (await cache.get())["revision"] - 1
    again = (await cache.results(turn(WEATHER, episode=1), **pins, revision=revision))[0]
    assert (again["live"], again["result"]["content"]) == (False, "sunny in Bern")


def _closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("kind", ["http", "mcp", "stdio", "breaks off"])
async def test_only_a_call_that_reached_no_tool_is_given_back(kind: str, settings: ServiceSettings, api_key: Any, serve: Serve):
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as rude:
        nowhere = f"http://127.0.0.1:{rude.sockets[0].getsockname()[1] if kind == 'breaks off' else _closed_port()}"
        servers = {"mcp": {"kind": "mcp", "url": f"{nowhere}/mcp"}, "stdio": {"kind": "mcp", "command": "/nonexistent/tool"}}
        app = create(CacheSettings.model_validate(settings.model_dump() | {"live_servers": {"bank": servers.get(kind, nowhere)}}))
        http = await serve(app, api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE)))
        body = {"name": "town", "tools": TOOLS, "settings": {"live_server": "bank", "live_budget": 1}}
        assert (await http.post("/v1/caches", json=body)).status_code == 201
        asked = {"items": [turn(WEATHER)], "mode": "fallthrough", "run": "run"}
        first, second = [await http.post("/v1/caches/town/lookups", json=asked) for _ in range(2)]
    assert first.json()["type"].endswith("live-tool-away"), first.text
    if kind == "breaks off":  # it may have been made
        assert second.json()["items"][0]["results"][0]["miss"] == "budget_used_up"
    else:
        assert second.json()["type"] == first.json()["type"], second.text
