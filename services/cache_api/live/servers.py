"""The live tool servers that the service's configuration names: one batch of calls out, as many results back.

A call belongs to a session, one for each (run, task, episode), which a server opens at the scenario's start. Whatever kind a server is, a
batch that fails gives nothing: `LiveToolError` where no call was made, `LostCallsError` where nobody knows.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cacherl.tier import ToolResult
from services.cache_api.live.call import LiveCall
from services.cache_api.live.http_server import HttpServer
from services.cache_api.live.mcp_server import McpServer
from services.cache_api.live.spec import LiveServerSpec, spec_of


class LiveServer(Protocol):
    """One server."""

    async def call(self, calls: Sequence[LiveCall]) -> list[ToolResult]:
        """One result per call, in order; those of one session are made one after the other.

        Errors: LiveToolError, LostCallsError; ConflictError `live-session-lost` where a session is gone that a call depends on.
        """
        ...

    async def reset(self, sessions: Sequence[str]) -> None:
        """Ends sessions, so that each begins anew at its scenario's start. Errors: LiveToolError."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class LiveServers:
    """The configured servers, by name."""

    def __init__(self, servers: Mapping[str, str | LiveServerSpec], timeout_s: float) -> None:
        self._servers: dict[str, LiveServer] = {name: _server(name, spec_of(value), timeout_s) for name, value in servers.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._servers

    async def call(self, server: str, calls: Sequence[LiveCall]) -> list[ToolResult]:
        """The results of a batch, one per call."""
        return await self._servers[server].call(calls)

    async def reset(self, server: str, sessions: Sequence[str]) -> None:
        """Ends sessions."""
        await self._servers[server].reset(sessions)

    async def close(self) -> None:
        """Closes all connections."""
        for server in self._servers.values():
            await server.close()


def _server(name: str, spec: LiveServerSpec, timeout_s: float) -> LiveServer:
    return McpServer(name, spec, timeout_s) if spec.kind == "mcp" else HttpServer(name, spec.url or "", timeout_s)
