"""The rollout service's application: `services.rollout.app:create(settings)`.

Two seams, for tests and for embedding: `open_engine` gives a client of a configured engine, `caches` gives pins and tool caches. In
production they are HTTP; `cacherl.testing.ScriptedEngine` and `InMemoryToolCache` fit them as well.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from cacherl import __version__
from services.kit.application import create_app
from services.rollout.bell import Bell
from services.rollout.caches import Caches, RemoteCaches
from services.rollout.engines import open_engine as open_over_http
from services.rollout.fleet import Fleet, OpenEngine
from services.rollout.parts import Parts
from services.rollout.renderers import Renderers
from services.rollout.routes import router
from services.rollout.runner import Runner
from services.rollout.settings import RolloutSettings


def create(settings: RolloutSettings, *, open_engine: OpenEngine = open_over_http, caches: Caches | None = None) -> FastAPI:
    """The application. An engine that is away does not make it unready: rollouts wait for it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        fleet = Fleet(settings.engines, open_engine)
        app.state.parts = Parts(
            database=app.state.database,
            settings=settings,
            fleet=fleet,
            caches=caches or RemoteCaches(settings.cache_api_url),
            renderers=Renderers(settings.weights_root),
            bell=Bell(),
        )
        app.state.runner = Runner(app.state.parts)
        running = asyncio.create_task(app.state.runner.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await fleet.close()

    return create_app(name="rollout", version=__version__, settings=settings, routers=[router], lifespan=lifespan)
