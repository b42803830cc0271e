"""Streamable HTTP: who may come in, and from where.

Who sends `Authorization: Bearer <API key>` asks the cache under that key, which the cache checks. Who sends none is let in on the proxy's
own key on a loopback address alone (and not with `require_key`); everywhere else it is 401. A session belongs to the key that opened it.
The Host and Origin of every request must be known ones, so a page in a browser cannot reach a proxy on its own machine (DNS rebinding).
"""

import asyncio
import contextlib
import hashlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx2
import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cacherl.errors import AwayError, CacheRLError, ForbiddenError, UnauthenticatedError, UsageError
from cacherl.mcp_proxy.config import Door
from cacherl.mcp_proxy.server import CALLER, IDLE_S, MAX_SESSIONS, Caller, Proxy

PATH = "/mcp"
MAX_BODY = 16 * 1024 * 1024
READY_S = 2.0
GRACE_S = 5
"""For requests that run when the proxy is told to stop."""


class Entrance:
    """Lets requests through to the protocol with their caller in the scope, or answers 401, 403 or 503."""

    def __init__(self, app: ASGIApp, proxy: Proxy, door: Door) -> None:
        self._app, self._proxy, self._door = app, proxy, door
        self._known: dict[str, Caller] = {}
        """By the key's hash; only keys that the cache took."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        caller = await self._caller(Request(scope))
        if isinstance(caller, Response):
            await caller(scope, receive, send)
            return
        scope[CALLER] = caller
        # The SDK lets a session be used by the user who opened it alone.
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=caller.id, scopes=[]))
        await self._app(scope, receive, send)

    async def _caller(self, request: Request) -> Caller | Response:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            if self._door.keyless and self._proxy.own is not None and not scheme:
                return self._proxy.own
            return _refused(401, "An API key is needed: send it as `Authorization: Bearer <key>`.")
        return await self._holder(key.strip())

    async def _holder(self, key: str) -> Caller | Response:
        id = hashlib.sha256(key.encode()).hexdigest()
        if id in self._known:
            return self._known[id]
        caller = self._proxy.caller(id, key)
        try:
            await caller.catalogue.snapshot()
        except (UnauthenticatedError, ForbiddenError, AwayError) as error:
            await caller.client.close()
            return _refused(503 if isinstance(error, AwayError) else error.status, error.detail)
        except CacheRLError:
            pass  # the key is good; what else is wrong the protocol says, where a client can show it
        known = self._known.setdefault(id, caller)
        if known is not caller:  # another request with this key was first
            await caller.client.close()
        return known

    async def close(self) -> None:
        """Closes the callers' connections."""
        for caller in self._known.values():
            await caller.client.close()


def _refused(status: int, detail: str) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"error": detail}, status_code=status, headers=headers)


def application(proxy: Proxy, door: Door) -> Entrance:
    """The ASGI application: the protocol under `/mcp`, and `/healthz` and `/readyz` for who runs it. Errors: UsageError."""
    app = proxy.server.streamable_http_app(
        streamable_http_path=PATH,
        json_response=True,  # nothing is sent but answers
        max_request_body_size=MAX_BODY,
        session_idle_timeout=IDLE_S,
        max_sessions=MAX_SESSIONS,
        transport_security=_security(door),
        custom_starlette_routes=[Route("/healthz", _alive), Route("/readyz", _readiness(proxy))],
    )
    return Entrance(app, proxy, door)


def _security(door: Door) -> TransportSecuritySettings:
    hosts = door.known_hosts()
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    return TransportSecuritySettings(enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=origins)


async def _alive(request: Request) -> Response:
    return PlainTextResponse("ok")


def _readiness(proxy: Proxy) -> Callable[[Request], Awaitable[Response]]:
    async def ready(request: Request) -> Response:
        """Ready is who can ask the cache API."""
        async with httpx2.AsyncClient(timeout=READY_S) as http:
            try:
                state = (await http.get(f"{proxy.url}/readyz")).status_code
            except httpx2.TransportError as error:
                state = type(error).__name__
        if state != 200:
            return PlainTextResponse(f"{proxy.url} is not ready ({state})", status_code=503)
        return PlainTextResponse("ok")

    return ready


@contextlib.contextmanager
def listening(door: Door) -> Iterator[socket.socket]:
    """A socket that is bound and will be closed. Errors: UsageError where the address cannot be taken."""
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((door.host, door.port))
        except OSError as error:
            raise UsageError(f"{door.host}:{door.port} cannot be listened on: {error.strerror or error}") from error
        yield taken
    finally:
        taken.close()


@contextlib.asynccontextmanager
async def serving(proxy: Proxy, door: Door, *, last: bool = False) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """Serves within the block: the address of the protocol, and the task that ends when the server does.

    `last`: nothing else is served in this process afterwards, so open streams are told to end at once.
    """
    entrance = application(proxy, door)
    with listening(door) as taken:
        server = _Server(
            uvicorn.Config(
                entrance,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
                ws="none",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        running = asyncio.create_task(server.serve([taken]))
        up = asyncio.create_task(server.up.wait())
        try:
            await asyncio.wait({running, up}, return_when=asyncio.FIRST_COMPLETED)
            yield f"http://{door.in_url}:{taken.getsockname()[1]}{PATH}", running
        finally:
            up.cancel()
            if last:
                server.handle_exit(signal.SIGTERM, None)  # streams listen to this, for the whole process
            server.should_exit = True
            await running
            await entrance.close()


class _Server(uvicorn.Server):
    """Leaves signals to who runs it, and says when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_http(proxy: Proxy, door: Door, announce: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM; `announce` is told the address."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving(proxy, door, last=True) as (url, running):
        announce(url)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
