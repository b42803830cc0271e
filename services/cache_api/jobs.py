"""The service's long work: building a view, calibrating. Postgres is the truth; a claimed job is held by a lease that its worker renews.

One job of a cache runs at a time, oldest first, in any replica. A worker that dies leaves its job to the next one when the lease ends; a
worker that lost its lease notices at its next beat and stops, and nothing it did is visible, since only the last transaction switches the
view.
"""

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout
from pydantic_core import to_json

from cacherl.api.cache import CalibrationCreate, View, ViewCreate
from cacherl.api.common import Progress
from cacherl.errors import CacheRLError, ConflictError, NotFoundError
from cacherl.jobs import JobState
from services.cache_api import store
from services.cache_api import view as views
from services.cache_api.build import Builder
from services.cache_api.calibration.job import Calibrating
from services.cache_api.embed import Embedder
from services.cache_api.store import Row, queries
from services.kit.identifiers import new_id
from services.kit.postgres import AsyncRows, Database

LEASE_S = 60.0
BEAT_S = 15.0
MAX_ATTEMPTS = 3
MAX_CATCHING_UP = 5
log = structlog.get_logger(__name__)


class LostError(Exception):
    """The job has another owner by now."""


async def add_view(connection: AsyncRows, cache: str, request: ViewCreate) -> View:
    """Queues the building of a view."""
    view = new_id("viw")
    await connection.execute(
        queries.add_job, {"id": view, "cache": cache, "kind": "view", "request": request.model_dump_json(exclude_unset=True), "view": view}
    )
    return await view_model(connection, cache, view)


async def view_model(connection: AsyncRows, cache: str, view: str) -> View:
    """A view, built or not. Errors: NotFoundError `no-such-view`."""
    job = await store.row(connection, queries.find_job, {"cache": cache, "job": view, "kind": "view"})
    made = await store.row(connection, queries.view, {"view": view})
    if job is None and (made is None or made["cache_id"] != cache):
        raise NotFoundError("There is no such view.", slug="no-such-view")
    found = await store.find_cache(connection, cache)
    covers = (0, 0) if made is None else (made["covers_from"], made["covers_through"])
    return View(
        id=view,
        cache=cache,
        state=JobState(job["state"]) if job else JobState.SUCCEEDED,
        covers_from=covers[0],
        covers_through=covers[1] if covers[1] is not None else (found["revision"] if found["view"] == view else 0),
        progress=_progress(job),
        learning=made["learning"] if made else None,
    )


def _progress(job: Row | None) -> Progress:
    return Progress(done=job["done"], total=job["total"], unit="entries") if job else Progress()


class Worker:
    """Claims jobs and does them, one after the other."""

    def __init__(self, database: Database, embedder: Embedder, poll_s: float) -> None:
        self.database = database
        self.embedder = embedder
        self.poll_s = poll_s
        self._bell = asyncio.Event()

    def ring(self) -> None:
        """Says that there is work."""
        self._bell.set()

    async def run(self) -> None:
        """Works for ever; a database that is away is waited for."""
        while True:
            self._bell.clear()
            try:
                while await self.once():
                    continue
            except (DatabaseError, PoolTimeout) as error:
                log.warning("no job can be claimed", action="job", error=type(error).__name__)
            try:
                await asyncio.wait_for(self._bell.wait(), self.poll_s)
            except TimeoutError:
                continue

    async def once(self) -> bool:
        """Does the oldest job; False where there is none."""
        async with self.database.system() as connection:
            claimed = await store.row(connection, queries.claim_job, {"lease": LEASE_S, "attempts": MAX_ATTEMPTS})
        if claimed is None:
            return False
        job = Job(self.database, self.embedder, claimed)
        beating = asyncio.create_task(job.keep())
        try:
            await job.work()
        except LostError:
            log.warning("job lost", action="job", job=claimed["id"])
        except CacheRLError as error:
            await job.finish("failed", error=error.detail)
        except (DatabaseError, PoolTimeout):
            raise
        except Exception:
            # Whatever it is must not end the worker: the job fails, the log has the reason.
            log.exception("job failed", action="job", job=claimed["id"], kind=claimed["kind"])
            await job.finish("failed", error="an unexpected error; the log has it under this job's id")
        finally:
            beating.cancel()
        return True


class Job:
    """One claimed job."""

    def __init__(self, database: Database, embedder: Embedder, claimed: Row) -> None:
        self.database, self.embedder, self.claimed = database, embedder, claimed
        self.id, self.tenant, self.cache = claimed["id"], claimed["tenant"], claimed["cache_id"]
        self.builder = Builder(database, embedder, self.tenant, self.cache)
        self._reached: tuple[float, float | None] = (0.0, None)

    async def work(self) -> None:
        """Does it."""
        async with self.database.tenant(self.tenant) as connection:
            row = await store.row(connection, queries.find_job, {"cache": self.cache, "job": self.id, "kind": self.claimed["kind"]})
        assert row is not None
        if self.claimed["kind"] == "view":
            request = ViewCreate.model_validate(self.claimed["request"])
            view = await self.builder.edited(row["view"], request.annotations, request.comparisons)
            await self._publish(view, {})
        else:
            view = await self.builder.learned(row["view"])
            await self._calibrate(view)

    async def beat(self, done: float, total: float | None) -> None:
        """Renews the lease and tells how far it is; LostError where the job has another owner."""
        self._reached = (done, total)
        async with self.database.tenant(self.tenant) as connection:
            row = {"job": self.id, "attempt": self.claimed["attempt"], "lease": LEASE_S, "done": done, "total": total}
            if await store.row(connection, queries.beat_job, row) is None:
                raise LostError

    async def keep(self) -> None:
        """Renews the lease while the work computes; where the job is lost, the work notices at its own next beat."""
        while True:
            await asyncio.sleep(BEAT_S)
            with suppress(LostError, DatabaseError, PoolTimeout):
                await self.beat(*self._reached)

    async def finish(self, state: str, *, result: dict[str, Any] | None = None, error: str | None = None) -> None:
        """Ends the job."""
        async with self.database.tenant(self.tenant) as connection:
            await self._finish(connection, state, result, error)

    async def _finish(self, connection: AsyncRows, state: str, result: dict[str, Any] | None, error: str | None) -> None:
        row = {"job": self.id, "attempt": self.claimed["attempt"], "state": state, "error": error}
        if await store.row(connection, queries.finish_job, row | {"result": to_json(result).decode() if result else None}) is None:
            raise LostError

    async def _publish(self, view: views.View, result: dict[str, Any], reached: int = 0) -> None:
        """Catches up and switches, together with the end of the job: all of it or nothing."""
        for _ in range(MAX_CATCHING_UP):
            reached = await self.builder.keys(view, self.beat, reached)
            try:
                async with self.database.tenant(self.tenant) as connection:
                    await self.builder.switch(connection, view, reached)
                    await self._finish(connection, "succeeded", result or None, None)
                return
            except ConflictError:
                continue
        raise ConflictError("The cache grows faster than its new view.", slug="view-behind")

    async def _calibrate(self, view: views.View) -> None:
        """Half of its progress is keying, half replaying: the calls that are replayed are those that were keyed."""
        keyed = 0.0

        async def keying(done: float, total: float | None) -> None:
            nonlocal keyed
            keyed = total or done
            await self.beat(done, keyed * 2)

        async def replaying(done: float, total: float | None) -> None:
            await self.beat(keyed + done, keyed + (total or done))

        revision = await self.builder.keys(view, keying)
        request = CalibrationCreate.model_validate(self.claimed["request"])
        found = await Calibrating(self.database, self.embedder, self.tenant, view, revision).found(request, replaying)
        await self._publish(view, found, revision)
