"""The short way through the application: a lookup that `direct` can answer does not pass through the router, its models and its middleware.

It stands before them and takes nothing away from them: whatever is not plainly a lookup with a valid key and body, of a cache that this
process has read before, goes on as it came, body and all, and is answered or refused there. So there is one place for every error, one
description of the route, and one check of scopes that the service cannot start without; this is the same answer, sooner.
"""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cacherl.api.cache import LookupRequest
from cacherl.errors import CacheRLError
from services.cache_api.lookup import Pins
from services.cache_api.parts import Parts
from services.kit.auth import Caller, Credentials, bearer_token
from services.kit.auth import Scope as KeyScope

PREFIX, SUFFIX = "/v1/caches/", "/lookups"
ROUTE = SimpleNamespace(path="/v1/caches/{cache}/lookups")
MAX_BODY = 1 << 20
"""A longer body is read by those who bound it."""
MAX_MESSAGES = 64


class ShortWay:
    """An ASGI layer of the cache service."""

    def __init__(self, app: ASGIApp, service: FastAPI) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a lookup, or lets the request pass."""
        cache = cache_of(scope)
        if cache is None:
            await self.app(scope, receive, send)
            return
        messages = await whole(receive)
        answer = await self._answer(scope, cache, b"".join(message.get("body", b"") for message in messages))
        if answer is None:
            await self.app(scope, replayed(messages, receive), send)
            return
        scope["route"] = ROUTE
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, scope: Scope, cache: str, body: bytes) -> bytes | None:
        parts: Parts = self.service.state.parts
        try:
            caller = await self._caller(scope)
            request = LookupRequest.model_validate_json(body)
        except (CacheRLError, ValidationError):
            return None
        if KeyScope.CACHE_READ not in caller.scopes or request.mode != "replay":
            return None
        answered = await parts.direct.answer(caller.tenant, cache, request)
        if answered is None:
            return None
        scope["state"]["caller"] = caller
        parts.tally.count(caller.tenant, answered.pins.cache, answered.calls)
        return answer_bytes(answered.pins, answered.items)

    async def _caller(self, scope: Scope) -> Caller:
        credentials: Credentials = self.service.state.credentials
        return await credentials.authenticate(bearer_token([v.decode("latin-1") for k, v in scope["headers"] if k == b"authorization"]))


def answer_bytes(pins: Pins, items: list[dict[str, Any]]) -> bytes:
    """A `LookupAnswer` as JSON."""
    answer = {"revision": pins.revision, "view": pins.view.id, "as_of": pins.as_of, "items": items}
    return orjson.dumps(answer, option=orjson.OPT_UTC_Z)


def cache_of(scope: Scope) -> str | None:
    """The cache that a short JSON lookup asks; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path: str = scope["path"]
    if not (path.startswith(PREFIX) and path.endswith(SUFFIX)) or scope.get("root_path"):
        return None
    cache = path[len(PREFIX) : -len(SUFFIX)]
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not cache or "/" in cache or headers.get(b"content-type") != b"application/json":
        return None
    return cache if length.isdigit() and len(length) < 10 and int(length) <= MAX_BODY else None


async def whole(receive: Receive) -> list[Message]:
    """The messages of a body, to its end or as far as is bearable."""
    messages = [await receive()]
    while messages[-1].get("more_body", False) and len(messages) < MAX_MESSAGES:
        messages.append(await receive())
    return messages


def replayed(messages: list[Message], receive: Receive) -> Callable[[], Awaitable[Message]]:
    """What was received, once more, and then what comes."""
    waiting = iter(messages)

    async def again() -> Message:
        message = next(waiting, None)
        return message if message is not None else await receive()

    return again
