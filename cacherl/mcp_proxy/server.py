"""The handlers of the protocol, and which episode a request belongs to.

A connection with a handshake (protocols up to 2025-11-25: a session of streamable HTTP, or stdio) is one episode for as long as it lives.
Protocol 2026-07-28 knows no sessions: over stdio the process is the episode; over HTTP each request names it (`CacheRL-Episode`), it begins
with `server/discover` or `tools/list` and is kept for half an hour after its last request. Without a name such a request is answered "take
the handshake", which clients that know both do: calls whose order nobody knows would be told what was true before the last write.
"""

import itertools
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequestParams,
    CallToolResult,
    DiscoverResult,
    ListToolsResult,
    PaginatedRequestParams,
    RequestParams,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from cacherl import __version__
from cacherl.client import CacheClient
from cacherl.client.batching import LookupPins
from cacherl.errors import CacheRLError, ConflictError, InputError
from cacherl.mcp_proxy.catalogue import Catalogue, Snapshot
from cacherl.mcp_proxy.config import EpisodeName, ProxyConfig
from cacherl.mcp_proxy.episode import Episode
from cacherl.mcp_proxy.shapes import protocol_error, result, tool

EPISODE = "cacherl/episode"
"""Key of `_meta` and of a client's capabilities (`experimental`, `extensions`): an `EpisodeName`."""
CALLER = "cacherl.caller"
"""Key in the scope of an HTTP request: who asks."""
HEADERS = {"cacherl-scenario": "scenario", "x-cacherl-scenario": "scenario", "cacherl-task": "task", "cacherl-episode": "episode"}
"""Percent-encoded UTF-8, as header values are ASCII. With `X-` is what a cache sends to a live MCP server, which a proxy may be."""
IDLE_S = 30 * 60
MAX_SESSIONS = 10_000

Context = ServerRequestContext[Any, Any]


@dataclass(frozen=True)
class Caller:
    """Under whose key the cache is asked."""

    id: str
    client: CacheClient
    catalogue: Catalogue


class Proxy:
    """One cache for many MCP sessions."""

    def __init__(self, config: ProxyConfig, url: str, own: Caller | None = None) -> None:
        self.config, self.url = config, url
        self.run = config.run or f"mcp-{uuid.uuid4().hex[:12]}"
        self.own = own
        """Asks for stdio, and over HTTP for who comes without a key where that is allowed."""
        self._numbers = itertools.count()
        self._single: Episode | None = None
        self._named = _Sessions()
        self.server = Server(
            "cacherl",
            version=__version__,
            title=f"CacheRL: {config.cache}",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            # No recorded schema binds arguments to headers: nothing is to be looked up before a call.
            get_tool_input_schema=lambda name: None,
        )
        default = self.server.get_request_handler("server/discover")
        assert default is not None, "the SDK serves it"
        self._discover_default = default.handler
        self.server.add_request_handler("server/discover", RequestParams, self._discover)

    def caller(self, id: str, key: str) -> Caller:
        """Who holds this key."""
        client = CacheClient(self.url, key)
        config = self.config
        catalogue = Catalogue(
            client, config.cache, self.run, preset=config.preset, revision=config.revision, view=config.view, rule=config.names
        )
        return Caller(id, client, catalogue)

    async def close(self) -> None:
        """Closes the connections under the proxy's own key."""
        if self.own is not None:
            await self.own.client.close()

    async def _discover(self, ctx: Context, params: RequestParams) -> DiscoverResult:
        try:
            self._episode(ctx, opens=True)
        except CacheRLError as error:
            raise protocol_error(error) from error
        found = await self._discover_default(ctx, params)
        assert isinstance(found, DiscoverResult), "the SDK's handler answers what it is for"
        return found

    async def _list_tools(self, ctx: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        if params is not None and params.cursor is not None:
            raise MCPError(INVALID_PARAMS, "all tools are on the first page: there is no cursor")
        try:
            snapshot = await self._episode(ctx, opens=True).snapshot()
        except CacheRLError as error:
            raise protocol_error(error) from error
        return ListToolsResult(tools=[tool(spec, snapshot.names) for spec in snapshot.tools])

    async def _call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        try:
            return result(await self._episode(ctx).call(params.name, params.arguments or {}, _given(ctx)))
        except CacheRLError as error:
            raise protocol_error(error) from error

    def _episode(self, ctx: Context, *, opens: bool = False) -> Episode:
        """The episode that a request belongs to; `opens`: it may begin one."""
        if ctx.request is None:
            self._single = self._single or self._new(self.own)
            return self._single
        caller: Caller = ctx.request.scope[CALLER]
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return self._named_episode(ctx, caller, opens)
        state = _connection_state(ctx)
        if EPISODE not in state:
            state[EPISODE] = self._new(caller)
        return state[EPISODE]

    def _named_episode(self, ctx: Context, caller: Caller, opens: bool) -> Episode:
        name = _given(ctx).over(self.config.episode)
        if name.episode is None:
            raise MCPError(
                UNSUPPORTED_PROTOCOL_VERSION,
                "this server's answers depend on the calls before: take the initialize handshake, "
                "or name the episode in the header CacheRL-Episode (a number, with CacheRL-Task and CacheRL-Scenario)",
                {"supported": list(HANDSHAKE_PROTOCOL_VERSIONS), "requested": ctx.protocol_version},
            )
        key = (caller.id, name.scenario, name.task, name.episode)
        found = self._named.get(key)
        if found is None:
            if not opens:
                raise ConflictError(
                    f"the episode {name.episode} is not open here (it ended, or this proxy was restarted): begin one with tools/list",
                    slug="episode-not-open",
                )
            found = self._named.add(key, self._new(caller))
        return found

    def _new(self, caller: Caller | None) -> Episode:
        assert caller is not None, "who comes without a key was let in on the proxy's own"
        snapshot = caller.catalogue.snapshot
        return Episode(caller.client, self.config.cache, snapshot, self._pins, next(self._numbers), self.config.episode)

    def _pins(self, snapshot: Snapshot) -> LookupPins:
        config = self.config
        return LookupPins(
            preset=config.preset,
            revision=snapshot.revision,
            view=snapshot.view,
            as_of=snapshot.as_of,
            mode=config.mode,
            select=config.select,
            run=self.run,
            run_seed=config.run_seed,
            budget=config.budget,
            explain=config.explain,
        )


class _Sessions:
    """Episodes by name, the one used last at the end; the longest unused go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: OrderedDict[tuple[Any, ...], tuple[Episode, float]] = OrderedDict()

    def get(self, key: tuple[Any, ...]) -> Episode | None:
        now = self._clock()
        while self._held and (len(self._held) > MAX_SESSIONS or next(iter(self._held.values()))[1] < now - IDLE_S):
            self._held.popitem(last=False)
        if key not in self._held:
            return None
        return self.add(key, self._held[key][0])

    def add(self, key: tuple[Any, ...], episode: Episode) -> Episode:
        self._held[key] = (episode, self._clock())
        self._held.move_to_end(key)
        return episode


def _given(ctx: Context) -> EpisodeName:
    """What a request and its connection say of the episode; the nearest to the call wins. Errors: InputError."""
    capabilities = ctx.session.client_capabilities
    opening = ctx.session.client_params
    meta = (ctx.params or {}).get("_meta") or {}
    said: list[Any] = [
        meta.get(EPISODE),
        {field: unquote(ctx.request.headers[h]) for h, field in HEADERS.items() if h in ctx.request.headers} if ctx.request else None,
        (opening.meta or {}).get(EPISODE) if opening is not None else None,
        ((capabilities.experimental or {}).get(EPISODE) or (capabilities.extensions or {}).get(EPISODE)) if capabilities else None,
    ]
    found = EpisodeName()
    for words in said:
        if words:
            found = found.over(_episode_name(words))
    return found


def _episode_name(words: Any) -> EpisodeName:
    try:
        return EpisodeName.model_validate(words)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{EPISODE}: {'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from None


def _connection_state(ctx: Context) -> dict[str, Any]:
    """What lives as long as the client's connection. The SDK documents it, and its request context does not yet lead there."""
    return ctx.session._connection.state  # pyright: ignore[reportPrivateUsage]


_INSTRUCTIONS = (
    "These tools answer from recordings. A result with isError that begins with [no recorded result] means that this call was never "
    "recorded in this situation; nothing was called and nothing changed. How each answer came about is in _meta under cacherl/answer."
)
