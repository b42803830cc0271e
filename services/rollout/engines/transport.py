"""HTTP to an engine: one pooled aiohttp session, and what its refusals mean in our error tree.

A connection that could not be opened, or that broke before the answer began, is tried again: nothing of that answer was taken yet.
What breaks later is never repeated here.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import stamina

from cacherl.errors import PROBLEM_URN, ConflictError, EngineError

ATTEMPTS = 4
RETRY_SECONDS = 10.0


class Transport:
    """Requests to one base address. Every failure becomes an `EngineError` or a `ConflictError` that names the address."""

    def __init__(self, url: str, connections: int, timeout: aiohttp.ClientTimeout) -> None:
        self.url = url.rstrip("/")
        self._connections, self._timeout = connections, timeout
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections; a later request opens new ones."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def json(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float | None = None) -> Any:
        """One request, its JSON answer (None where it is empty)."""
        content = await self.text(method, path, body, seconds=seconds)
        if not content.strip():
            return None
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise EngineError(f"the engine at {self.url} answered {path} with something that is not JSON") from error

    async def text(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float | None = None) -> bytes:
        """One request, its answer as it came."""
        data = None if body is None else orjson.dumps(body)
        async with self.stream(method, path, data, seconds=seconds) as response, self.boundary(path):
            return await response.read()

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, data: bytes | None = None, *, seconds: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose head says success; leaving early closes its connection, which aborts the request."""
        response = await self._open(method, path, data, seconds)
        try:
            if response.status >= 400:
                async with self.boundary(path):
                    raise refusal(self.url, path, response.status, await response.read())
            yield response
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def _open(self, method: str, path: str, data: bytes | None, seconds: float | None) -> aiohttp.ClientResponse:
        if self._session is None:
            # shorter than the five seconds after which uvicorn closes an idle connection
            connector = aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=3)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        settings: dict[str, Any] = {"headers": {"content-type": "application/json"}} if data is not None else {}
        if seconds is not None:
            settings["timeout"] = aiohttp.ClientTimeout(total=seconds)
        async with self.boundary(path):
            async for attempt in stamina.retry_context(
                on=aiohttp.ClientConnectionError, attempts=ATTEMPTS, timeout=RETRY_SECONDS, wait_initial=0.05, wait_max=2.0
            ):
                with attempt:
                    return await self._session.request(method, self.url + path, data=data, **settings)
        raise AssertionError("a retry context returns or raises")

    @asynccontextmanager
    async def boundary(self, path: str) -> AsyncIterator[None]:
        """Turns whatever HTTP throws inside into an `EngineError`."""
        try:
            yield
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise EngineError(f"the engine at {self.url} does not answer {path}: {reason}") from error


def refusal(url: str, path: str, status: int, content: bytes) -> EngineError | ConflictError:
    """The error that an HTTP refusal means: a problem (RFC 9457) keeps its slug, SGLang's `error.message` or `message` its text."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    body = body if isinstance(body, dict) else {}
    nested = body.get("error")
    said = body.get("detail") or body.get("message") or (nested.get("message") if isinstance(nested, dict) else None)
    return problem_error(body | {"status": status, "detail": f"the engine at {url} refused {path} ({status}): {said or 'no reason given'}"})


def problem_error(problem: Mapping[str, Any]) -> EngineError | ConflictError:
    """The error that a problem object stands for."""
    kind = str(problem.get("type", ""))
    slug = kind.removeprefix(PROBLEM_URN) if kind.startswith(PROBLEM_URN) else None
    cls = ConflictError if problem.get("status") == 409 else EngineError
    errors = problem.get("errors")
    return cls(str(problem.get("detail", "")), slug=slug, errors=errors if isinstance(errors, list) else None)
