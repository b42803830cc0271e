"""The short way of a lookup: the same answers as the long one, and the long one wherever anything is not as it was."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import psycopg
import pytest
from fastapi import FastAPI

from cacherl.api.cache import LookupRequest
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.local.scratch import DatabaseDsns
from tests.cache_api.conftest import TOOLS, Cache, call, item, trajectory

RUN = [
    ("get_weather", {"city": "Oslo"}, "snow"),
    ("get_balance", {"account": "A1"}, "100"),
    ("transfer", {"account": "A1", "amount": 30}, "done"),
    ("get_balance", {"account": "A1"}, "70"),
]
ASKED = item(*[call(name, arguments) for name, arguments, _ in RUN])


@pytest.fixture
def app(cache_settings: CacheSettings) -> FastAPI:
    return create(cache_settings)


@pytest.fixture
async def town(app: FastAPI, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]) -> Cache:
    http = await serve(app, api_key())
    await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})
    town = Cache(http, "town")
    await town.record(trajectory("r1", RUN))
    return town


async def short(app: FastAPI, **request: Any) -> bool:
    """Whether the short way answers a request by now."""
    wanted = LookupRequest.model_validate({"items": [ASKED]} | request)
    return await app.state.parts.direct.answer("acme", "town", wanted) is not None


@pytest.mark.parametrize("preset", ["robust", "paper"])
async def test_both_ways_answer_the_same(app: FastAPI, town: Cache, preset: str):
    missed = item(call("get_weather", {"city": "Rome"}), call("nothing_like_it", {}), scenario="s2")
    guarded = item(*ASKED["calls"], exclude_sources=["r1"])
    request = {"as_of": "2026-01-01T00:00:00Z", "preset": preset}
    assert not await short(app)
    long = await town.look(ASKED, missed, guarded, ASKED, **request)
    assert await short(app)
    assert await town.look(ASKED, missed, guarded, ASKED, **request) == long
    assert long["items"][0]["results"][0]["result"]["content"] == "snow"


async def test_a_lookup_without_pins_sees_what_was_recorded_last_and_a_pinned_one_never_does(app: FastAPI, town: Cache):
    first = await town.look(ASKED)
    await town.look(ASKED, revision=1)
    for number in range(3):
        await town.record(trajectory(f"more-{number}", [("get_weather", {"city": "Oslo"}, "sun")]))
    assert await short(app)
    newest = await town.look(ASKED)
    assert (first["revision"], newest["revision"]) == (1, 4)
    assert newest["items"][0]["results"][0]["result"]["content"] == "sun"
    assert await short(app, revision=1)
    assert (await town.look(ASKED, revision=1))["items"][0]["results"][0]["result"]["content"] == "snow"


async def test_a_tool_that_comes_later_is_known_at_once(town: Cache):
    other = item(call("get_time", {"city": "Oslo"}))
    assert (await town.results(other))[0]["outcome"] == "miss"
    tools = [*TOOLS, TOOLS[0] | {"function": TOOLS[0]["function"] | {"name": "get_time"}}]
    await town.record(trajectory("r2", [("get_time", {"city": "Oslo"}, "noon")], tools=tools))
    assert (await town.results(other))[0]["outcome"] == "exact"


async def test_what_is_not_as_it_was_is_told_as_ever(app: FastAPI, town: Cache, api_key: Callable[..., str]):
    await town.look(ASKED)
    await town.look(ASKED, revision=1)
    assert (await town.look(ASKED, revision=9, status=409))["type"].endswith("view-does-not-cover-revision")
    assert (await town.look(item(call("get_weather", {}), state="bogus"), status=422))["type"].endswith("not-a-state")
    for content in (b"{", b'{"items": [{"calls": []}]}', b'{"items": 1e999}'):
        refused = await town.http.post(f"{town.url}/lookups", content=content, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:cacherl:problem:invalid-input")
    for scopes, tenant, status in (((Scope.CACHE_WRITE,), "acme", 403), ((Scope.CACHE_READ,), "other", 404)):
        stranger = {"Authorization": f"Bearer {api_key(scopes=scopes, tenant=tenant)}"}
        answer = await town.http.post(f"{town.url}/lookups", json={"items": [ASKED]}, headers=stranger)
        assert answer.status_code == status
    assert (await town.http.post(f"{town.url}/lookups", json={"items": [ASKED]}, headers={"Authorization": "Bearer x"})).status_code == 401
    assert (await town.http.delete(town.url)).status_code in (200, 204)
    assert (await town.look(ASKED, status=404))["type"].endswith("no-such-cache")


@pytest.mark.parametrize(("scenario", "status"), [("a\0b", 422), ("ä€𝄞", 200), ("'; drop table cache.entries; --", 200)])
async def test_any_scenario_is_text_and_nothing_else(town: Cache, scenario: str, status: int):
    asked = item(call("get_balance", {"account": "A1"}), scenario=scenario)
    found = [await town.http.post(f"{town.url}/lookups", json={"items": [asked], "as_of": "2026-01-01T00:00:00Z"}) for _ in range(3)]
    assert {one.status_code for one in found} == {status}
    assert len({one.content for one in found}) == 1


async def test_a_connection_that_the_server_closed_costs_no_answer(town: Cache, database_dsns: DatabaseDsns):
    await town.look(ASKED)
    expected = await town.look(ASKED, as_of="2026-01-01T00:00:00Z")
    with psycopg.connect(database_dsns.admin, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'cacherl_app' and datname = current_database()"
        )
    for _ in range(4):
        assert await town.look(ASKED, as_of="2026-01-01T00:00:00Z") == expected


async def test_the_metrics_and_the_log_name_the_route(town: Cache):
    for _ in range(3):
        await town.look(ASKED)
    told = (await town.http.get("/metrics")).text
    assert 'cacherl_http_requests_total{method="POST",route="/v1/caches/{cache}/lookups",service="cache_api",status="200"}' in told
    assert "{cache}/lookups/" not in told
