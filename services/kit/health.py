"""Health: `/healthz` says that the process answers, `/readyz` that its dependencies do, `/metrics` gives numbers.

Readiness asks every dependency at once with a budget of a second, and remembers the answer for a second, so probes cost
the dependencies nothing. It names what is away and says nothing of why: the log has that. The three paths need no
credential and hold no tenant's data.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

BUDGET_S = 1.0
REMEMBER_S = 1.0
Check = Callable[[], Awaitable[None]]
log = structlog.get_logger(__name__)


class Readiness:
    """The state of the dependencies, asked for at most once a second."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = dict(checks)
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._states: dict[str, str] = {}

    async def states(self) -> dict[str, str]:
        """Name → `ok`, `slow` (over budget) or `away`."""
        async with self._lock:
            if time.monotonic() >= self._until:
                names = list(self._checks)
                states = await asyncio.gather(*(self._ask(name) for name in names))
                self._states = dict(zip(names, states, strict=True))
                self._until = time.monotonic() + REMEMBER_S
            return self._states

    async def _ask(self, name: str) -> str:
        try:
            async with asyncio.timeout(BUDGET_S):
                await self._checks[name]()
        except TimeoutError:
            return "slow"
        except Exception as error:
            log.warning("not ready", action="readiness", dependency=name, error=type(error).__name__)
            return "away"
        return "ok"


def router(readiness: Readiness) -> APIRouter:
    """The three paths."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/readyz", summary="Whether the dependencies answer", responses={503: {"description": "A dependency is away"}})
    async def readyz() -> JSONResponse:
        states = await readiness.states()
        ready = all(state == "ok" for state in states.values())
        return JSONResponse({"status": "ready" if ready else "not ready", "checks": states}, status_code=200 if ready else 503)

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return routes
