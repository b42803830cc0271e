"""The commands about live modes, against the real service and a live tool server."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import httpx2
import orjson

from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from tests.cache_api.bank import Bank, http_app
from tests.cache_api.conftest import TOOLS, call, item, trajectory
from tests.cli.conftest import Command


async def test_divergence_is_read_where_a_cache_was_shadowed(
    command: Command,
    settings: ServiceSettings,
    serve: Callable[..., Awaitable[httpx2.AsyncClient]],
    api_key: Callable[..., str],
    tmp_path: Path,
):
    bank = str((await serve(http_app(Bank()))).base_url)
    key = api_key()
    http = await serve(create(CacheSettings.model_validate(settings.model_dump() | {"live_servers": {"bank": bank}})), key)
    cache = partial(command, "cache", CACHERL_KEY=key, CACHERL_CACHE_API_URL=str(http.base_url).rstrip("/"))
    tools = tmp_path / "tools.json"
    tools.write_bytes(orjson.dumps(TOOLS))
    made = await cache("create", "town", "--tools", tools, "--live-server", "bank", "--live-budget", "9", "--shadow-share", "1", "--json")
    assert (made.document["settings"]["live_budget"], made.document["settings"]["shadow_share"]) == (9, 1.0)
    assert (await cache("create", "x", "--live-server", "nowhere")).code == 2
    assert (await cache("divergence", "town", "--json")).document == {"items": []}

    line = orjson.dumps(trajectory("t0", [("get_weather", {"city": "Bern"}, "rain")]))
    assert (await http.post("/v1/caches/town/entries", content=line)).status_code == 200
    asked = item(call("get_weather", {"city": "Bern"}), draw={"task": "t", "episode": 0}, session="s")
    assert (await http.post("/v1/caches/town/lookups", json={"items": [asked], "mode": "shadow", "run": "r"})).status_code == 200
    async with asyncio.timeout(20):
        while not (found := (await cache("divergence", "town", "--json")).document["items"]):
            pass
    assert (found[0]["tool"], found[0]["compared"], found[0]["diverged"], found[0]["rate"]) == ("get_weather", 1, 1, 1.0)
    table = await cache("divergence", "town")
    assert (table.code, "get_weather" in table.out) == (0, True)
