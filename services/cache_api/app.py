"""The cache service: `create(settings)` makes the application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from cacherl import __version__
from services.cache_api.parts import Parts
from services.cache_api.routes import caches, entries, lookups
from services.cache_api.settings import CacheSettings
from services.kit.application import create_app


def create(settings: CacheSettings) -> FastAPI:
    """The application on these settings."""
    return create_app(
        name="cache_api",
        version=__version__,
        settings=settings,
        routers=[caches.router, entries.router, lookups.router],
        lifespan=lifespan,
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Counting runs beside the requests; what is counted is written at the end."""
    parts = Parts.of(app.state.database, app.state.settings)
    app.state.parts = parts
    running = [asyncio.create_task(parts.tally.run())]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await parts.tally.flush()
