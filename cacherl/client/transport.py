"""One HTTP connection to one service: keys, retries, problems as typed errors, NDJSON both ways.

Retried are requests that are safe to repeat: reads, and writes under an idempotency key, which every acting POST carries. What may act and
has no key (a lookup that may call a live tool) is sent once. A problem document becomes the matching type of `cacherl.errors`.
"""

import uuid
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, TypeVar

import httpx2
import orjson
import stamina
from pydantic import BaseModel

from cacherl import errors

M = TypeVar("M", bound=BaseModel)

_BY_STATUS: dict[int, type[errors.CacheRLError]] = {
    400: errors.InputError,
    401: errors.UnauthenticatedError,
    403: errors.ForbiddenError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    410: errors.GoneError,
    413: errors.TooLargeError,
    422: errors.InputError,
    502: errors.ServiceError,
    503: errors.ServiceError,
    504: errors.ServiceError,
}
_PASSING = frozenset({502, 503, 504})


class Transport:
    """Speaks to one service. Errors: `ServiceError` when it is away, else the type that its problem document names."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0, attempts: int = 5, headers: Mapping[str, str] | None = None) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self._client = httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}", **(headers or {})},
            timeout=httpx2.Timeout(timeout, connect=5.0),
            limits=httpx2.Limits(max_connections=32, max_keepalive_connections=16),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def get(self, path: str, answer: type[M], **params: Any) -> M:
        """GET; None parameters are left out."""
        response = await self._send("GET", path, params=_given(params))
        return answer.model_validate_json(response.content)

    async def post(
        self, path: str, body: BaseModel | None, answer: type[M], *, key: str | None = None, acts: bool = True, once: bool = False
    ) -> M:
        """POST under an idempotency key: repeating it never acts twice. `acts` is false for a question: no key. `once`: no retry."""
        content = body.model_dump_json(by_alias=True).encode() if body is not None else b""
        headers = {"Content-Type": "application/json"}
        if acts:
            headers["Idempotency-Key"] = key or uuid.uuid4().hex
        response = await self._send("POST", path, attempts=1 if once else None, content=content, headers=headers)
        return answer.model_validate_json(response.content)

    async def put(self, path: str, content: bytes, answer: type[M], content_type: str = "application/octet-stream") -> M:
        """PUT raw bytes; the same bytes again change nothing."""
        response = await self._send("PUT", path, content=content, headers={"Content-Type": content_type})
        return answer.model_validate_json(response.content)

    async def delete(self, path: str) -> None:
        """DELETE; what is gone already is an error like any other."""
        await self._send("DELETE", path)

    async def stream_up(
        self,
        path: str,
        lines: AsyncIterable[bytes],
        answer: type[M],
        *,
        content_type: str = "application/x-ndjson",
        within_s: float | None = None,
        **params: Any,
    ) -> M:
        """POST from a stream. Not retried: give a batch id and call again. `within_s`: how long the answer may take after the last byte."""
        timeout = self._client.timeout if within_s is None else httpx2.Timeout(within_s, connect=5.0)
        try:
            response = await self._client.post(
                path,
                content=lines,
                params=_given(params),
                headers={"Content-Type": content_type},
                timeout=timeout,
            )
        except httpx2.TransportError as error:
            raise self._away(error) from error
        self._raise_problem(response)
        return answer.model_validate_json(response.content)

    async def file(self, path: str) -> bytes:
        """GET a file."""
        return (await self._send("GET", path)).content

    async def lines(self, path: str, *, headers: Mapping[str, str] | None = None, **params: Any) -> AsyncIterator[bytes]:
        """GET a stream line by line; ends when the service ends it. Errors: `ServiceError` when it breaks off."""
        rest = b""
        async for chunk in self.chunks(path, headers=headers, **params):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def chunks(self, path: str, *, headers: Mapping[str, str] | None = None, **params: Any) -> AsyncIterator[bytes]:
        """GET a stream as it comes. Errors: `ServiceError` when it breaks off."""
        wanted = _given(params)
        try:
            async with self._client.stream(
                "GET", path, params=wanted, headers=headers, timeout=httpx2.Timeout(None, connect=5.0)
            ) as response:
                if response.status_code >= 400:
                    await response.aread()
                    self._raise_problem(response)
                async for chunk in response.aiter_bytes():
                    yield chunk
        except httpx2.TransportError as error:
            raise self._away(error) from error

    async def _send(self, method: str, path: str, attempts: int | None = None, **options: Any) -> httpx2.Response:
        tries = attempts or self.attempts
        async for attempt in stamina.retry_context(errors.ServiceError, attempts=tries, timeout=60, wait_initial=0.1, wait_max=5):
            with attempt:
                try:
                    response = await self._client.request(method, path, **options)
                except httpx2.TransportError as error:
                    raise self._away(error) from error
                self._raise_problem(response)
                return response
        raise AssertionError("the retry context ends by a return or an error")

    def _away(self, error: Exception) -> errors.ServiceError:
        return errors.ServiceError(f"{self.url} does not answer ({type(error).__name__}); is the system up? (`cacherl up`)")

    def _raise_problem(self, response: httpx2.Response) -> None:
        if response.status_code < 400:
            return
        try:
            body = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            body = {}
        raise error_of(response.status_code, body if isinstance(body, dict) else {}, self.url)


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def error_of(status: int, body: Mapping[str, Any], url: str) -> errors.CacheRLError:
    """The typed error of a problem document."""
    kind = errors.ServiceError if status in _PASSING else _BY_STATUS.get(status, errors.CacheRLError)
    detail = str(body.get("detail") or body.get("title") or f"{url} answered {status}")
    found = body.get("errors")
    error = kind.__new__(kind)
    errors.CacheRLError.__init__(
        error,
        detail,
        errors=found if isinstance(found, list) else [],
        slug=str(body.get("type", "")).removeprefix(errors.PROBLEM_URN) or None,
        title=str(body.get("title") or kind.title),
    )
    if isinstance(error, errors.DataError):
        error.line = error.pointer = None
    return error
