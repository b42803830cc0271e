"""The live tool servers that the service's configuration names: one batch of calls out, as many results back."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from cacherl.errors import LiveToolError
from cacherl.tier import ToolResult
from services.kit.trace import outgoing_headers

RESULTS = TypeAdapter(list[ToolResult])


class LiveServers:
    """The configured live tool servers."""

    def __init__(self, urls: Mapping[str, str], timeout_s: float) -> None:
        self.urls = dict(urls)
        self._client = httpx2.AsyncClient(timeout=httpx2.Timeout(timeout_s, connect=5.0), follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def call(self, server: str, items: Sequence[dict[str, Any]]) -> list[ToolResult]:
        """One result per call, in order. Errors: LiveToolError for anything but as many results as calls."""
        try:
            answer = await self._client.post(
                f"{self.urls[server].rstrip('/')}/calls",
                content=to_json({"items": list(items)}),
                headers={"Content-Type": "application/json", **outgoing_headers()},
            )
        except httpx2.TransportError as error:
            raise LiveToolError(f"The live server {server} does not answer ({type(error).__name__}).") from error
        if answer.status_code != 200:
            raise LiveToolError(f"The live server {server} answered {answer.status_code}.")
        try:
            body = from_json(answer.content, allow_inf_nan=False)
            results = RESULTS.validate_python(body["results"] if isinstance(body, dict) else body)
        except (ValueError, ValidationError, KeyError) as error:
            raise LiveToolError(f"The live server {server} answered something that is no list of results.") from error
        if len(results) != len(items):
            raise LiveToolError(f"The live server {server} answered {len(results)} results to {len(items)} calls.")
        return results
