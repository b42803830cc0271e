"""Makes a service out of its routes: what all four have in common, in one place.

`create_app` opens the database and the credentials, answers every error as a problem, limits bodies, counts and logs
requests, and serves health and documentation. It REFUSES TO START where an operation under `/v1` has no scope, so a
forgotten dependency is a failed start, never an open door.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from psycopg import Error as DatabaseError
from psycopg import sql
from starlette.types import ASGIApp

from services.kit import health, migrate, problems
from services.kit.auth import Credentials, requires
from services.kit.postgres import Database
from services.kit.settings import ServiceSettings
from services.kit.telemetry import Telemetry

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
Check = Callable[[], Awaitable[None]]
HOUSEKEEPING_S = 3600.0
EXPIRE = sql.SQL("select kit.expire()")
log = structlog.get_logger(__name__)


class UnscopedRouteError(RuntimeError):
    """An operation under /v1 that anybody could call: the service does not start."""


class Service(FastAPI):
    """A FastAPI application whose outermost layer is the telemetry."""

    first: Callable[[ASGIApp], ASGIApp] | None = None
    """A layer of the service's own before everything but the telemetry."""

    def build_middleware_stack(self) -> ASGIApp:
        """The usual stack inside the telemetry."""
        usual = super().build_middleware_stack()
        return Telemetry(self.first(usual) if self.first is not None else usual, self.title)

    def openapi(self) -> dict[str, Any]:
        """The document, with the problem schema that the responses refer to."""
        if self.openapi_schema is None:
            document = get_openapi(title=self.title, version=self.version, routes=self.routes, description=self.description or None)
            schema = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(schema.pop("$defs", {}))
            schemas["Problem"] = schema
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            self.openapi_schema = document
        return self.openapi_schema


def create_app(
    *,
    name: str,
    version: str,
    settings: ServiceSettings,
    routers: Sequence[APIRouter],
    lifespan: Lifespan | None = None,
    ready: Sequence[Check] = (),
    first: Callable[[ASGIApp, FastAPI], ASGIApp] | None = None,
) -> FastAPI:
    """The application of the service `name` (`cache_api`, `rollout`, …).

    `lifespan(app)` runs inside the kit's own, so `app.state.database` (Database), `app.state.credentials` and `app.state.settings` are
    there. `ready` are the service's own dependencies for `/readyz`; a check raises where its dependency is away and is named after its
    function. `first` makes a layer that sees every request before the router and the error handlers: it answers, or passes the request on.
    """
    app = Service(
        title=name,
        version=version,
        lifespan=_lifespan(name, settings, lifespan),
        max_body_size=settings.max_body_bytes,
        redoc_url=None,
        responses=problems.documented(),
        separate_input_output_schemas=False,
    )
    app.state.settings = settings
    if first is not None:
        app.first = lambda inner: first(inner, app)
    problems.install(app)
    for router in routers:
        app.include_router(router)
    refuse_unscoped(app)
    checks: dict[str, Check] = {"database": lambda: check_database(app.state.database, name)}
    checks |= {getattr(check, "__name__", f"check_{index}"): check for index, check in enumerate(ready)}
    app.include_router(health.router(health.Readiness(checks)))
    return app


def _lifespan(name: str, settings: ServiceSettings, inner: Lifespan | None) -> Lifespan:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        database = await Database.open(settings.database_url, max_size=settings.database_pool, application=f"cacherl {name}")
        app.state.database = database
        app.state.credentials = Credentials(database, settings.pepper.get_secret_value())
        housekeeping = asyncio.create_task(keep_house(database))
        try:
            if inner is None:
                yield
            else:
                async with inner(app):
                    yield
        finally:
            housekeeping.cancel()
            await asyncio.gather(housekeeping, return_exceptions=True)
            await database.close()

    return run


async def keep_house(database: Database) -> None:
    """Once an hour: old idempotency answers and ended delegations go."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_S)
        try:
            async with database.system() as connection:
                await connection.execute(EXPIRE)
        except DatabaseError as error:
            log.warning("housekeeping failed", action="housekeeping", error=type(error).__name__)


async def check_database(database: Database, component: str) -> None:
    """Raises where the database is away or lacks a migration that this code needs."""
    async with database.system() as connection:
        await migrate.check_revisions(connection, component)


def refuse_unscoped(app: FastAPI) -> None:
    """Raises UnscopedRouteError for an operation under /v1 without `requires(…)`; a mount, websocket or plain route there is one."""
    for route in iter_route_contexts(app.routes):
        path = route.path or ""
        if (path == "/v1" or path.startswith("/v1/")) and not scopes_of(route):
            raise UnscopedRouteError(f"{sorted(route.methods or [])} {path} requires no scope: add Depends(requires(Scope.…))")


def scopes_of(route: RouteContext) -> list[str]:
    """The scopes that a route requires, wherever in its dependencies they stand."""
    if not isinstance(route.original_route, APIRoute):
        return []
    return _scopes(route.dependant)


def _scopes(dependant: Dependant) -> list[str]:
    found = [dependant.call.scope.value] if isinstance(dependant.call, requires) else []
    return found + [scope for inner in dependant.dependencies for scope in _scopes(inner)]
