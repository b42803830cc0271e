"""The real cache service, the real proxy and the official MCP client, over both transports."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from cacherl.mcp_proxy.config import Door, EpisodeName, ProxyConfig
from cacherl.mcp_proxy.http import serving
from cacherl.mcp_proxy.server import Proxy
from cacherl.mcp_proxy.shapes import ANSWER
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.settings import ServiceSettings
from tests.cache_api.conftest import TOOLS, Cache, tool, trajectory

ODD = tool("town hall/archive.find", {"query": {"type": "string"}}, ["query"], mutating=False, scope="none")
DOTTED = tool("library.find", {"title": {"type": "string"}}, ["title"])
READ = ("get_balance", {"account": "A1"})
PAY = ("transfer", {"account": "A1", "amount": 30})


CACHERL = ["-c", "from cacherl.cli import main; main()"]


def entry(source: str, name: str, arguments: dict[str, Any], content: Any) -> dict[str, Any]:
    """One recorded call on its own; its content need not be text."""
    call = {"name": name, "arguments": arguments}
    return {"call": call, "result": {"content": content}, "scenario": "s1", "source": source, "step": 0}


class Town:
    """A cache with recordings of a small town hall, and where it is."""

    def __init__(self, http: httpx2.AsyncClient, key: str) -> None:
        self.http, self.key = http, key
        self.url = str(http.base_url).rstrip("/")
        self.cache = Cache(http, "town")

    async def record(self) -> None:
        tools = [*TOOLS, ODD, DOTTED]
        assert (await self.http.post("/v1/caches", json={"name": "town", "tools": tools})).status_code == 201
        await self.cache.record(
            trajectory("t1", [("get_weather", {"city": "Bonn"}, "clear"), (*READ, "100")], tools=tools),
            trajectory("t2", [(*PAY, "done"), (*READ, "70")], task="t2", tools=tools),
            trajectory("t3", [("town hall/archive.find", {"query": "deed"}, "folio 7")], task="t3", tools=tools),
            trajectory("t4", [("library.find", {"title": "Emma"}, "shelf 3")], task="t4", tools=tools),
            trajectory("t5", [("search_notes", {"query": "x"}, ValueError("no such note"))], task="t5", tools=tools),
            trajectory("t6", [("get_weather", {"city": "Bonn"}, "rain")], scenario="s2", task="t6", tools=tools),
            entry("t7", "get_weather", {"city": "Rome"}, {"sky": "clear", "degrees": 21}),
        )


@pytest.fixture
async def town(settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]) -> Town:
    key = api_key(scopes=(Scope.CACHE_READ, Scope.CACHE_WRITE))
    made = Town(await serve(create(CacheSettings(**settings.model_dump())), key), key)
    await made.record()
    return made


Connect = Callable[..., AbstractAsyncContextManager[Client]]


def config(**options: Any) -> ProxyConfig:
    return ProxyConfig.model_validate({"cache": "town", "episode": {"scenario": "s1"}} | options)


@asynccontextmanager
async def proxying(
    town: Town, made: ProxyConfig | None = None, *, door: Door | None = None, own_key: str | None = None
) -> AsyncIterator[str]:
    """The proxy over HTTP in this event loop: its address."""
    proxy = Proxy(made or config(), town.url)
    proxy.own = proxy.caller("", own_key or town.key)
    async with serving(proxy, door or Door()) as (url, _):
        yield url
    await proxy.close()


@asynccontextmanager
async def client_of(url: str, *, headers: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers or {}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), **options) as client,
    ):
        yield client


def command(town: Town, *arguments: str, key: str | None = None) -> StdioServerParameters:
    """The command as an MCP host starts it."""
    environment = {
        "CACHERL_KEY": key or town.key,
        "CACHERL_CACHE_API_URL": town.url,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    return StdioServerParameters(command=sys.executable, args=[*CACHERL, "cache", "proxy", "town", *arguments], env=environment)


@pytest.fixture(params=["http", "stdio"])
def connect(request: pytest.FixtureRequest, town: Town) -> Connect:
    """Opens a session with a proxy of its own over either transport."""

    @asynccontextmanager
    async def over_http(*, scenario: str | None = "s1", names: str = "mcp", **options: Any) -> AsyncIterator[Client]:
        made = config(episode=EpisodeName(scenario=scenario), names=names)
        async with proxying(town, made) as url, client_of(url, **options) as client:
            yield client

    @asynccontextmanager
    async def over_stdio(*, scenario: str | None = "s1", names: str = "mcp", **options: Any) -> AsyncIterator[Client]:
        arguments = ["--stdio", "--names", names, *(["--scenario", scenario] if scenario else [])]
        async with Client(command(town, *arguments), **options) as client:
            yield client

    return over_http if request.param == "http" else over_stdio


def text(result: CallToolResult) -> str:
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text


def answer(result: CallToolResult) -> dict[str, Any]:
    assert result.meta is not None
    return result.meta[ANSWER]
