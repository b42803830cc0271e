"""Streamable HTTP: who may come in, which protocol is spoken, and what happens when the service is away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest
from mcp import MCPError
from mcp.client import advertise
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from cacherl.errors import UsageError
from cacherl.mcp_proxy.config import Door, ProxyConfig
from cacherl.mcp_proxy.http import serving
from cacherl.mcp_proxy.server import Proxy
from services.kit.auth import Scope
from tests.proxy.conftest import PAY, READ, Town, answer, client_of, config, entry, proxying, text

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def post(url: str, body: object = INITIALIZE, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient() as http:
        return await http.post(url, json=body, headers=ACCEPT | {name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
async def guarded(town: Town) -> AsyncIterator[str]:
    """A proxy that wants everybody's own key."""
    async with proxying(town, door=Door(require_key=True)) as url:
        yield url


async def test_without_a_key_nobody_comes_in_where_one_is_wanted(guarded: str) -> None:
    refused = await post(guarded)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert (await post(guarded, Authorization="Basic eDp5")).status_code == 401
    assert (await post(guarded, Authorization="Bearer")).status_code == 401


async def test_a_key_that_the_cache_refuses_is_refused(guarded: str, town: Town) -> None:
    assert (await post(guarded, Authorization="Bearer nonsense")).status_code == 401
    assert (await post(guarded, Authorization=f"Bearer {town.key}")).status_code == 200


async def test_a_key_that_may_not_read_is_refused(guarded: str, api_key: Callable[..., str]) -> None:
    assert (await post(guarded, Authorization=f"Bearer {api_key(scopes=(Scope.REWARD_SCORE,))}")).status_code == 403


async def test_a_wrong_key_is_wrong_where_none_is_needed(town: Town) -> None:
    async with proxying(town) as url:
        assert (await post(url, Authorization="Bearer nonsense")).status_code == 401


async def test_a_caller_asks_under_the_key_it_brings(guarded: str, town: Town, api_key: Callable[..., str]) -> None:
    async with client_of(guarded, headers={"Authorization": f"Bearer {town.key}"}) as client:
        assert text(await client.call_tool("get_weather", {"city": "Bonn"})) == "clear"
    stranger = api_key(scopes=(Scope.CACHE_READ,), tenant="elsewhere")
    async with client_of(guarded, headers={"Authorization": f"Bearer {stranger}"}) as client:
        with pytest.raises(MCPError) as refused:
            await client.list_tools()
    assert refused.value.data["status"] == 404


async def test_a_session_is_its_openers_alone(guarded: str, town: Town, api_key: Callable[..., str]) -> None:
    opened = await post(guarded, Authorization=f"Bearer {town.key}")
    session = opened.headers["mcp-session-id"]
    other = api_key(scopes=(Scope.CACHE_READ,))
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    assert (await post(guarded, listing, Authorization=f"Bearer {other}", Mcp_Session_Id=session)).status_code == 404
    assert (await post(guarded, listing, Authorization=f"Bearer {town.key}", Mcp_Session_Id=session)).status_code == 200


async def test_beyond_loopback_a_key_is_needed_and_the_host_must_be_a_known_one(town: Town) -> None:
    with pytest.raises(UsageError, match="--allowed-host"):
        Door(host="0.0.0.0").known_hosts()  # noqa: S104
    door = Door(host="0.0.0.0", hosts=["gateway.example"])  # noqa: S104
    async with proxying(town, door=door) as anywhere:
        url = anywhere.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        key = f"Bearer {town.key}"
        assert (await post(url)).status_code == 401
        assert (await post(url, Authorization=key)).status_code == 421
        assert (await post(url, Authorization=key, Host="gateway.example")).status_code == 200
        assert (await post(url, Authorization=key, Host="gateway.example:8005")).status_code == 200


async def test_a_page_in_a_browser_cannot_reach_it(town: Town) -> None:
    async with proxying(town) as url:
        assert (await post(url, Host="evil.example")).status_code == 421
        assert (await post(url, Origin="http://evil.example")).status_code == 403
        assert (await post(url, Origin="http://localhost:3000")).status_code == 200


ADDRESSES = {"127.0.0.1": True, "::1": True, "localhost": True, "10.0.0.1": False, "0.0.0.0": False, "gateway": False}  # noqa: S104


@pytest.mark.parametrize(("host", "loopback"), ADDRESSES.items())
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert Door(host=host).keyless is loopback
    assert not Door(host=host, require_key=True).keyless


async def test_health_needs_no_key_and_readiness_is_the_services(guarded: str, town: Town) -> None:
    base = guarded.removesuffix("/mcp")
    async with httpx2.AsyncClient() as http:
        assert (await http.get(f"{base}/healthz")).status_code == 200
        assert (await http.get(f"{base}/readyz")).status_code == 200


async def test_an_episode_is_named_by_headers(town: Town) -> None:
    async with proxying(town) as url:
        async with client_of(
            url, headers={"CacheRL-Scenario": "s%32", "CacheRL-Task": "t", "CacheRL-Episode": "3"}, mode="legacy"
        ) as client:
            assert text(await client.call_tool("get_weather", {"city": "Bonn"})) == "rain"
        async with client_of(url, headers={"CacheRL-Episode": "first"}, mode="legacy") as client:
            with pytest.raises(MCPError, match="episode"):
                await client.call_tool("get_weather", {"city": "Bonn"})


async def test_clients_that_know_both_protocols_take_the_one_with_sessions(town: Town) -> None:
    async with proxying(town) as url, client_of(url) as client:
        assert client.protocol_version == LATEST_HANDSHAKE_VERSION
        assert "cacherl/answer" in (client.instructions or "")


async def test_the_protocol_without_sessions_needs_a_name(town: Town) -> None:
    async with proxying(town) as url, client_of(url, mode=LATEST_MODERN_VERSION) as client:
        with pytest.raises(MCPError, match="CacheRL-Episode"):
            await client.list_tools()
        with pytest.raises(MCPError, match="CacheRL-Episode"):
            await client.call_tool(*READ)


async def test_the_protocol_without_sessions_chains_the_calls_of_a_named_episode(town: Town) -> None:
    async def story(url: str, episode: int) -> list[str]:
        async with client_of(url, headers={"CacheRL-Episode": str(episode)}) as client:
            assert client.protocol_version == LATEST_MODERN_VERSION
            return [text(await client.call_tool(*call)) for call in (READ, PAY, READ)]

    async with proxying(town) as url:
        assert await asyncio.gather(*(story(url, number) for number in range(4))) == [["100", "done", "70"]] * 4
        async with client_of(url, headers={"CacheRL-Episode": "0"}) as again:
            assert text(await again.call_tool(*READ)) == "70", "it goes on where it was"


async def test_an_episode_that_is_not_open_is_not_made_up(town: Town) -> None:
    async with (
        proxying(town) as url,
        client_of(url, headers={"CacheRL-Episode": "7"}, mode=LATEST_MODERN_VERSION) as client,
    ):
        with pytest.raises(MCPError, match="not open") as refused:
            await client.call_tool(*READ)
        assert refused.value.data["type"].endswith(":episode-not-open")
        await client.list_tools()
        assert text(await client.call_tool(*READ)) == "100"


async def test_an_episode_may_be_named_by_an_extension(town: Town) -> None:
    async with proxying(town) as url:
        extensions = [advertise("cacherl/episode", {"episode": 1, "scenario": "s2"})]
        async with client_of(url, mode=LATEST_MODERN_VERSION, extensions=extensions) as client:
            await client.list_tools()
            assert text(await client.call_tool("get_weather", {"city": "Bonn"})) == "rain"


@asynccontextmanager
async def proxy_at(url: str, key: str, made: ProxyConfig) -> AsyncIterator[str]:
    proxy = Proxy(made, url)
    proxy.own = proxy.caller("", key)
    async with serving(proxy, Door()) as (address, _):
        yield address
    await proxy.close()


class Wire:
    """A port that leads to a service, and can be cut."""

    def __init__(self, url: str) -> None:
        self._host, self._port = url.removeprefix("http://").split(":")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(self._host, int(self._port))
        ways = [asyncio.create_task(_copy(reader, to_writer)), asyncio.create_task(_copy(to_reader, writer))]
        self._open.update(ways)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
    finally:
        writer.close()


async def test_a_service_that_goes_away_is_a_clear_error_and_nothing_is_forgotten(town: Town) -> None:
    wire = Wire(town.url)
    await wire.join()
    async with proxy_at(f"http://127.0.0.1:{wire.port}", town.key, config()) as url, client_of(url) as client:
        assert text(await client.call_tool(*PAY)) == "done"
        await wire.cut()
        with pytest.raises(MCPError, match="does not answer") as away:
            await client.call_tool(*READ)
        assert away.value.data["type"].endswith(":service-away")
        await wire.join()
        assert text(await client.call_tool(*READ)) == "70"
    await wire.cut()


async def test_a_proxy_may_start_before_the_service(town: Town) -> None:
    async with proxy_at("http://127.0.0.1:9", town.key, config()) as url:
        async with httpx2.AsyncClient() as http:
            assert (await http.get(url.removesuffix("/mcp") + "/readyz")).status_code == 503
        assert (await post(url, Authorization="Bearer unknown")).status_code == 503
        async with client_of(url) as client:
            with pytest.raises(MCPError, match="does not answer"):
                await client.list_tools()


async def test_a_call_that_is_given_up_counts_as_not_made(town: Town) -> None:
    async with proxying(town) as url, client_of(url) as client:
        await client.list_tools()
        paying = asyncio.create_task(client.call_tool(*PAY))
        await asyncio.sleep(0)
        paying.cancel()
        await asyncio.gather(paying, return_exceptions=True)
        assert text(await client.call_tool(*READ)) in ("100", "70"), "as the cancellation came before the call or after it"


async def test_many_sessions_that_start_together(town: Town) -> None:
    async def session(url: str) -> str:
        async with client_of(url) as client:
            await client.list_tools()
            return text(await client.call_tool("get_weather", {"city": "Bonn"}))

    async with proxying(town) as url:
        assert await asyncio.gather(*(session(url) for _ in range(24))) == ["clear"] * 24


async def test_seeded_samples_differ_between_episodes_and_repeat_within_a_seed(town: Town) -> None:
    await town.cache.record(*(entry(f"n{n}", "search_notes", {"query": "poem"}, f"line {n}") for n in range(6)))
    made = config(select="sample", run="r", run_seed=3)

    async def session(url: str, episode: int) -> list[str]:
        async with client_of(url, headers={"CacheRL-Episode": str(episode)}, mode="legacy") as client:
            return [text(await client.call_tool("search_notes", {"query": "poem"})) for _ in range(3)]

    async def all_of_them() -> list[list[str]]:
        async with proxying(town, made) as url:
            return [await session(url, episode) for episode in range(4)]

    first, again = await all_of_them(), await all_of_them()
    assert first == again
    assert len({tuple(lines) for lines in first}) > 1


async def test_answers_carry_what_they_were_pinned_to(town: Town) -> None:
    async with proxying(town) as url, client_of(url) as client:
        found = answer(await client.call_tool(*READ))
    cache = await town.cache.get()
    assert (found["revision"], found["view"]) == (cache["revision"], cache["view"])
