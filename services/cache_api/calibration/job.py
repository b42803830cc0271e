"""The calibration of one view of one cache: reads the recordings a page at a time, replays them, says what was found.

Memory is bounded: at most one tool's drawn calls with one place's distinct calls are held at once, never the cache. Each statement is a
short transaction, so nothing is locked while it computes; `beat` tells how far it is and stops it where the job has another owner.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from cacherl.api.cache import CacheSettings, Calibration, CalibrationCreate
from cacherl.api.common import Progress
from cacherl.errors import NotFoundError
from cacherl.jobs import JobState
from services.cache_api import store
from services.cache_api.calibration.draw import drawn_tasks
from services.cache_api.calibration.evidence import evidence
from services.cache_api.calibration.pools import pool_of
from services.cache_api.calibration.replay import Kept, Place, Recorded, Replayer, ToolReplay
from services.cache_api.embed import Embedder
from services.cache_api.store import Row
from services.cache_api.view import View
from services.kit.identifiers import new_id
from services.kit.postgres import AsyncRows, Database, load_queries

queries = load_queries(Path(__file__).with_name("queries.sql"))
PLACES_AT_ONCE = 500
PAGE = 5_000
Beat = Callable[[float, float | None], Awaitable[None]]


class Calibrating:
    """One calibration under way, after the view has its keys."""

    def __init__(self, database: Database, embedder: Embedder, tenant: str, view: View, revision: int) -> None:
        self.database, self.embedder, self.tenant, self.view = database, embedder, tenant, view
        self.pins: Row = {"cache": view.cache, "view": view.id, "revision": revision}

    async def found(self, request: CalibrationCreate, beat: Beat) -> dict[str, Any]:
        """The evidence, as `Calibration` has it; the view knows it from now on. `beat` is told of replayed calls."""
        replays = await self._replays(beat)
        async with self.database.tenant(self.tenant) as connection:
            settings = CacheSettings.model_validate((await store.find_cache(connection, self.view.cache))["settings"])
            noise = await store.row(connection, queries.noise, self.pins)
        made = await asyncio.to_thread(evidence, replays, target_false=request.target_false, floor=settings.fidelity_floor)
        tools = [item.model_dump(mode="json") for item in made.tools]
        async with self.database.tenant(self.tenant) as connection:
            told = {"view": self.view.id, "calibration": to_json(tools).decode()}
            await connection.execute(store.queries.calibrate_view, told)
        assert noise is not None
        return {
            "revision": self.pins["revision"],
            "tools": tools,
            "pools": [item.model_dump(mode="json") for item in made.pools],
            "noise_floor": noise["differing"] / noise["compared"] if noise["compared"] else None,
            "curve": [point.model_dump(mode="json") for point in made.curve],
            "best_effort_curve": [point.model_dump(mode="json") for point in made.best_effort_curve],
        }

    async def _replays(self, beat: Beat) -> list[ToolReplay]:
        async with self.database.tenant(self.tenant) as connection:
            tools = await store.rows(connection, queries.keyed_tools, self.pins)
            tasks_of = {row["scenario"]: row["tasks"] for row in await store.rows(connection, queries.scenario_tasks, self.pins)}
        total = sum(row["entries"] for row in tools)
        replays: list[ToolReplay] = []
        done = 0
        for row in tools:
            replays.append(await self._replay(row["tool"], tasks_of))
            done += row["entries"]
            await beat(done, total)
        return replays

    async def _replay(self, tool: str, tasks_of: Mapping[str, int]) -> ToolReplay:
        known = self.view.tools.get(tool)
        spec = known.spec if known else None
        pins = self.pins | {"tool": tool}
        async with self.database.tenant(self.tenant) as connection:
            calls_of = [(row["task"], row["calls"]) for row in await store.rows(connection, queries.task_calls, pins)]
            tasks, cut = drawn_tasks(calls_of)
            rows = await store.rows(connection, queries.drawn_calls, pins | {"tasks": tasks})
        drawn = [Recorded(**row) for row in rows]
        replayer = Replayer(tool, drawn, spec, tasks_of, self.embedder)
        async for kept in self._kept(pins, replayer.places):
            await asyncio.to_thread(replayer.take, kept)
        pool = await asyncio.to_thread(pool_of, spec, [row.arguments for row in drawn])
        return ToolReplay(tool, pool, replayer.calls, cut)

    async def _kept(self, pins: Row, places: Sequence[Place]) -> AsyncIterator[list[Kept]]:
        """Recordings of whole places: what a page cuts off waits for the next."""
        for start in range(0, len(places), PLACES_AT_ONCE):
            some = places[start : start + PLACES_AT_ONCE]
            number = {place: n for n, place in enumerate(some, 1)}
            asked = pins | {
                "identity": [place[0] for place in some],
                "state": [place[1] for place in some],
                "scenario": [place[2] for place in some],
                "limit": PAGE,
            }
            waiting: list[Kept] = []
            last: Row = {"after": 0, "key": b"", "digest": b""}
            while True:
                async with self.database.tenant(self.tenant) as connection:
                    page = [_kept(row) for row in await store.rows(connection, queries.kept_calls, asked | last)]
                waiting += page
                if len(page) < PAGE:
                    break
                last = {"after": number[page[-1].place], "key": page[-1].key, "digest": page[-1].digest}
                whole = [one for one in waiting if one.place != page[-1].place]
                if whole:
                    yield whole
                    waiting = waiting[len(whole) :]
            if waiting:
                yield waiting


def _kept(row: Row) -> Kept:
    place = (row["identity"], row["scoped_state"], row["scenario"])
    return Kept(place, row["key"], row["digest"], row["support"], row["arguments"])


async def add_calibration(connection: AsyncRows, cache: str, request: CalibrationCreate) -> Calibration:
    """Queues a calibration."""
    name = new_id("cal")
    job = {"id": name, "cache": cache, "kind": "calibration", "request": request.model_dump_json(), "view": new_id("viw")}
    await connection.execute(store.queries.add_job, job)
    return await calibration_model(connection, cache, name)


async def calibration_model(connection: AsyncRows, cache: str, name: str) -> Calibration:
    """A calibration with its evidence. Errors: NotFoundError `no-such-calibration`."""
    job = await store.row(connection, store.queries.find_job, {"cache": cache, "job": name, "kind": "calibration"})
    if job is None:
        raise NotFoundError("There is no such calibration.", slug="no-such-calibration")
    return _model(job)


async def newest(connection: AsyncRows, cache: str, limit: int) -> list[Calibration]:
    """The cache's calibrations, newest first."""
    return [_model(job) for job in await store.rows(connection, queries.list_calibrations, {"cache": cache, "limit": limit})]


def _model(job: Row) -> Calibration:
    view = job["view"] if job["state"] == "succeeded" else None
    progress = Progress(done=job["done"], total=job["total"], unit="entries")
    return Calibration(
        id=job["id"], cache=job["cache_id"], state=JobState(job["state"]), view=view, progress=progress, **(job["result"] or {})
    )
