"""The cache service: `create(settings)` makes the application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from cacherl import __version__
from services.cache_api.parts import Parts
from services.cache_api.routes import caches, calibrations, divergence, entries, lookups, operations, tools, views
from services.cache_api.settings import CacheSettings
from services.cache_api.short_way import ShortWay
from services.kit.application import create_app

LAST_COUNTS_S = 5.0


def create(settings: CacheSettings) -> FastAPI:
    """The application on these settings."""
    return create_app(
        name="cache_api",
        version=__version__,
        settings=settings,
        routers=[
            caches.router,
            entries.router,
            lookups.router,
            tools.router,
            views.router,
            calibrations.router,
            operations.router,
            divergence.router,
        ],
        lifespan=lifespan,
        first=ShortWay,
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Counting and long work run beside the requests; what is counted is written at the end, what is unfinished goes on elsewhere."""
    parts = Parts.of(app.state.database, app.state.settings)
    app.state.parts = parts
    running = [asyncio.create_task(parts.tally.run()), asyncio.create_task(parts.worker.run())]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_COUNTS_S):
                await parts.tally.flush()
        await parts.shadows.close()
        await parts.live_writer.close()
        parts.direct.quick.close()
        await parts.live.close()
