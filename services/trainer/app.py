"""The trainer's application: `services.trainer.app:create(settings)`.

It takes data and jobs, says how far they are, and reaps: jobs whose worker was lost go back to the queue, waiting ones are woken, and
what nobody rang for is rung for again. It trains nothing itself and imports no torch: workers do, in processes of their own.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from cacherl import __version__
from services.kit.application import create_app
from services.kit.postgres import SyncDatabase
from services.trainer.datasets import DatasetFiles
from services.trainer.jobs import JobStore
from services.trainer.queue import Bell, make_app
from services.trainer.routes import routers
from services.trainer.routes.parts import Parts
from services.trainer.settings import TrainerSettings

log = structlog.get_logger(__name__)


def create(settings: TrainerSettings) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = SyncDatabase.open(settings.database_url, max_size=settings.database_pool, application="cacherl trainer")
        bell, jobs = Bell(make_app(settings)), JobStore(database)
        app.state.parts = Parts(settings, database, jobs, DatasetFiles(settings.shared_root / "datasets"), bell)
        reaper = asyncio.create_task(_reap(jobs, bell, settings))
        try:
            yield
        finally:
            reaper.cancel()
            await asyncio.gather(reaper, return_exceptions=True)
            database.close()

    return create_app(name="trainer", version=__version__, settings=settings, routers=routers, lifespan=lifespan)


async def _reap(jobs: JobStore, bell: Bell, settings: TrainerSettings) -> None:
    """Reaps for ever; a database that is away is waited for. Several replicas may: rows are locked, not tables."""
    while True:
        try:
            found = await asyncio.to_thread(jobs.reap, max_tries=settings.max_tries, long_queued_s=settings.long_queued_s)
            await asyncio.to_thread(bell.ring, found.rings)
        except (DatabaseError, PoolTimeout) as error:
            log.warning("not reaped", action="reap", error=type(error).__name__)
        await asyncio.sleep(settings.reap_every_s)
