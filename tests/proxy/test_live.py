"""Live modes through the proxy: what a session did live is recorded under its name, and a call that was cut off ends it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from mcp import MCPError

from cacherl.mcp_proxy.config import Door
from cacherl.mcp_proxy.http import serving
from cacherl.mcp_proxy.server import Proxy
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from tests.cache_api.conftest import TOOLS, Cache, trajectory
from tests.proxy.conftest import PAY, READ, answer, client_of, config, text


class Bank:
    """A live tool server: one account for each session. `broken`: it takes calls and answers none."""

    def __init__(self) -> None:
        self.app, self.balance, self.calls, self.broken = FastAPI(), {}, 0, False
        self.app.post("/calls")(self.answer)

    async def answer(self, request: Request) -> Any:
        asked = (await request.json())["items"]
        self.calls += len(asked)
        if self.broken:
            return Response(status_code=500)
        return {"results": [self._one(item) for item in asked]}

    def _one(self, item: dict[str, Any]) -> dict[str, Any]:
        balance = self.balance.setdefault(item["session"], 100)
        if item["name"] == "transfer":
            self.balance[item["session"]] = balance - item["arguments"]["amount"]
            return {"content": "done"}
        return {"content": str(balance)}


Open = Callable[..., Any]


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def key(api_key: Callable[..., str]) -> str:
    return api_key()


@pytest.fixture
async def http(bank: Bank, settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], key: str) -> httpx2.AsyncClient:
    """The cache service, with a cache whose live server is the bank."""
    live = {"bank": str((await serve(bank.app)).base_url)}
    http = await serve(create(CacheSettings.model_validate(settings.model_dump() | {"live_servers": live})), key)
    body = {"name": "town", "tools": TOOLS, "settings": {"live_server": "bank", "shadow_share": 1.0}}
    assert (await http.post("/v1/caches", json=body)).status_code == 201
    return http


@pytest.fixture
async def opened(http: httpx2.AsyncClient, key: str) -> Open:

    @asynccontextmanager
    async def proxying(**options: Any) -> AsyncIterator[str]:
        proxy = Proxy(config(**options), str(http.base_url).rstrip("/"))
        proxy.own = proxy.caller("", key)
        proxy.own.client.http.attempts = 1
        async with serving(proxy, Door()) as (url, _):
            yield url
        await proxy.close()

    return proxying


async def test_what_is_recorded_through_a_proxy_is_replayed_by_one(opened: Open, bank: Bank) -> None:
    async with opened(mode="record", run="may") as url:
        headers = {"CacheRL-Task": "pay", "CacheRL-Episode": "4"}
        async with client_of(url, headers=headers, mode="legacy") as client:
            found = [await client.call_tool(*call) for call in (READ, PAY, READ)]
    assert [text(one) for one in found] == ["100", "done", "70"]
    assert [(answer(one)["live"], answer(one)["entry"]["source"], answer(one)["entry"]["step"]) for one in found] == [
        (True, "may/pay/4", step) for step in range(3)
    ]
    assert bank.calls == 3
    async with opened() as url, client_of(url) as client:
        found = [await client.call_tool(*call) for call in (READ, PAY, READ)]
    assert [text(one) for one in found] == ["100", "done", "70"]
    assert not any(answer(one)["live"] for one in found)
    assert bank.calls == 3


async def test_sessions_have_worlds_of_their_own(opened: Open) -> None:
    async with opened(mode="record") as url, client_of(url) as one, client_of(url) as other:
        assert text(await one.call_tool(*PAY)) == "done"
        assert text(await other.call_tool(*READ)) == "100"
        assert text(await one.call_tool(*READ)) == "70"


async def test_a_miss_is_asked_live_and_the_next_session_hits(opened: Open, bank: Bank) -> None:
    async with opened(mode="fallthrough") as url:
        async with client_of(url) as client:
            first = await client.call_tool("get_weather", {"city": "Bonn"})
        async with client_of(url) as client:
            second = await client.call_tool("get_weather", {"city": "Bonn"})
    assert (answer(first)["live"], text(first), text(second)) == (True, "100", "100")
    assert bank.calls == 1


async def test_in_shadow_what_is_served_is_recorded_and_compared_beside_it(opened: Open, bank: Bank, http: httpx2.AsyncClient) -> None:
    await Cache(http, "town").record(trajectory("t1", [(*READ, "100"), ("get_weather", {"city": "Bonn"}, "clear"), (*PAY, "done")]))
    async with opened(mode="shadow", run="beside") as url, client_of(url) as client:
        found = [
            await client.call_tool(*call) for call in (READ, ("get_weather", {"city": "Bonn"}), PAY, ("get_weather", {"city": "Rome"}))
        ]
        compared = await _compared(http, 2)
    assert [text(one) for one in found[:3]] == ["100", "clear", "done"]
    assert [(answer(one)["outcome"], answer(one)["live"]) for one in found] == [("exact", False)] * 3 + [("miss", False)]
    # The balance is what the bank says; its weather is a balance too. What changes something is not asked, nor is what missed.
    assert {tool: (one["compared"], one["diverged"]) for tool, one in compared.items()} == {"get_balance": (1, 0), "get_weather": (1, 1)}
    assert bank.calls == 2
    assert (await Cache(http, "town").get())["entries"] == 3


async def _compared(http: httpx2.AsyncClient, wanted: int) -> dict[str, dict[str, Any]]:
    """Divergence by tool, once so many comparisons were made: no answer waits for them."""
    async with asyncio.timeout(20):
        while True:
            found = (await Cache(http, "town").get("/divergence"))["items"]
            if sum(one["compared"] + one["failed"] for one in found) >= wanted:
                return {one["tool"]: one for one in found}
            await asyncio.sleep(0.05)


async def test_a_live_change_that_was_cut_off_ends_its_session(opened: Open, bank: Bank) -> None:
    async with opened(mode="record") as url, client_of(url) as client:
        assert text(await client.call_tool(*READ)) == "100"
        bank.broken = True
        with pytest.raises(MCPError):
            await client.call_tool(*PAY)
        bank.broken = False
        with pytest.raises(MCPError, match="start a new session") as over:
            await client.call_tool(*READ)
        assert over.value.data["type"].endswith(":episode-over")
        async with client_of(url) as another:
            assert text(await another.call_tool(*READ)) == "100"


async def test_a_live_read_that_was_cut_off_may_be_made_again(opened: Open, bank: Bank) -> None:
    async with opened(mode="record") as url, client_of(url) as client:
        bank.broken = True
        with pytest.raises(MCPError):
            await client.call_tool(*READ)
        bank.broken = False
        assert text(await client.call_tool(*READ)) == "100"
