"""The cache API under requests made from its OpenAPI document: no server error, every refusal a problem document."""

import asyncio
from collections.abc import Callable

import pytest
from schemathesis.schemas import APIOperation

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from tests.cache_api.conftest import TOOLS, Cache, Serve, trajectory
from tests.fuzzing import fuzz

EXAMPLES = 8


def takes_the_town_away(operation: APIOperation) -> bool:
    return operation.method.lower() == "delete" and operation.path == "/v1/caches/{cache}"


# The service runs in this process and draws random numbers while the requests are made: that is no fault of theirs.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
async def test_no_request_that_the_document_can_make_is_a_server_error(
    cache_settings: CacheSettings, serve: Serve, api_key: Callable[..., str]
):
    key = api_key()
    http = await serve(create(cache_settings), key)
    made = await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})
    assert made.status_code == 201
    town = Cache(http, "town")
    await town.record(trajectory("r1", [("get_weather", {"city": "Oslo"}, "snow"), ("transfer", {"account": "A", "amount": 1}, "ok")]))
    known = {"cache": "town", "tool": "get_weather", "view": made.json()["view"], "entry": (await town.get("/entries"))["items"][0]["id"]}
    headers = {"Authorization": f"Bearer {key}"}
    found = await asyncio.to_thread(fuzz, str(http.base_url), headers, known, examples=EXAMPLES, skip=takes_the_town_away)
    assert not found.faults, "\n\n".join(found.faults[:20])
    assert {200, 404, 422} <= set(found.statuses), found.statuses
    assert len(found.operations) >= 20
    assert (await http.get("/readyz")).status_code == 200
