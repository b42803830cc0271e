"""A live tool server over plain HTTP.

`POST /calls {"items": [{"session", "scenario", "name", "arguments"}]}` answers `{"results": [{"content", "is_error"}]}`;
`DELETE /sessions/{session}` ends a session, and a server that knows none says 404.
"""

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

import httpx2
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from cacherl.errors import LiveToolError
from cacherl.tier import ToolResult
from services.cache_api.live.call import LiveCall, LostCallsError
from services.kit.trace import outgoing_headers

RESULTS = TypeAdapter(list[ToolResult])
UNMADE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""The request never left."""


class HttpServer:
    """One server at one address."""

    def __init__(self, name: str, url: str, timeout_s: float) -> None:
        self.name, self.url = name, url.rstrip("/")
        self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(timeout_s, connect=5.0), follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def call(self, calls: Sequence[LiveCall]) -> list[ToolResult]:
        """One result per call. Errors: LiveToolError, LostCallsError."""
        items = [{"session": one.session, "scenario": one.scenario, "name": one.name, "arguments": one.arguments} for one in calls]
        headers = {"Content-Type": "application/json", **outgoing_headers()}
        try:
            answer = await self._client.post(f"{self.url}/calls", content=to_json({"items": items}), headers=headers)
        except UNMADE as error:
            raise LiveToolError(f"The live server {self.name} does not answer ({type(error).__name__}).") from error
        except httpx2.TransportError as error:
            raise LostCallsError(f"The live server {self.name} does not answer ({type(error).__name__}).") from error
        if answer.status_code != 200:
            # A refusal is made before any call; a failure may come after some.
            failed = LiveToolError if answer.status_code < 500 else LostCallsError
            raise failed(f"The live server {self.name} answered {answer.status_code}.")
        return self._results(answer.content, len(calls))

    def _results(self, content: bytes, wanted: int) -> list[ToolResult]:
        try:
            body = from_json(content, allow_inf_nan=False)
            results = RESULTS.validate_python(body["results"] if isinstance(body, dict) else body)
        except (ValueError, ValidationError, KeyError) as error:
            raise LostCallsError(f"The live server {self.name} answered something that is no list of results.") from error
        if len(results) != wanted:
            raise LostCallsError(f"The live server {self.name} answered {len(results)} results to {wanted} calls.")
        return results

    async def reset(self, sessions: Sequence[str]) -> None:
        """Ends sessions; one that the server does not know is ended already. Errors: LiveToolError."""
        await asyncio.gather(*map(self._end, sessions))

    async def _end(self, session: str) -> None:
        try:
            answer = await self._client.delete(f"{self.url}/sessions/{quote(session, safe='')}", headers=outgoing_headers())
        except httpx2.TransportError as error:
            raise LiveToolError(f"The live server {self.name} does not answer ({type(error).__name__}).") from error
        if answer.status_code >= 400 and answer.status_code != 404:
            raise LiveToolError(f"The live server {self.name} answered {answer.status_code} when a session was to be ended.")
