"""Building a view: keys of every entry that was recorded, under new annotations, while the present view goes on answering.

Entries are read as their sources made them, a block at a time; the states before them come from the histories, so nothing but the
annotations decides what a key is. When the new view has caught up, one short transaction under the cache's lock keys what came last,
closes the present view at that revision and switches. Until then nobody sees the new view, and whoever is pinned to the old one reads it
as before.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from cacherl.errors import ConflictError
from cacherl.state import State, scoped
from cacherl.tool_spec import Annotations, ToolSpec
from services.cache_api import removals, store
from services.cache_api.embed import Embedder, embedded
from services.cache_api.event import Event, Link
from services.cache_api.histories import states_of
from services.cache_api.keying import EntryRow, KeyRow, key_row
from services.cache_api.learning import given_with, remembered, view_tools
from services.cache_api.learning.learn import Learner
from services.cache_api.spool import key_columns
from services.cache_api.store import Row, queries
from services.cache_api.view import View, ViewTool
from services.kit.postgres import AsyncRows, Database

BLOCK = 500
LAST_UNDER_LOCK = 2_000
"""No more entries than this are keyed while the cache is locked."""
Beat = Callable[[float, float | None], Awaitable[None]]
"""Reports (done, total) and raises where the job has another owner."""


class Builder:
    """Builds one view of one cache."""

    def __init__(self, database: Database, embedder: Embedder, tenant: str, cache: str) -> None:
        self.database = database
        self.embedder = embedder
        self.tenant = tenant
        self.cache = cache

    async def edited(self, view: str, overrides: Mapping[str, Annotations], comparisons: int | None = None) -> View:
        """A view like the present one but for these annotations, and for what the recordings show under them.

        `comparisons`: how many a scope takes that is finer than the group; None: chosen by replaying the recordings.
        """
        async with self.database.tenant(self.tenant) as connection:
            present = await self._present(connection)
        given = given_with(present.given, (), overrides)
        return await self._learn(view, given, {name: remembered(tool.spec) for name, tool in present.tools.items()}, comparisons)

    async def learned(self, view: str) -> View:
        """A view that reads tools anew from what was recorded last; what was given stays."""
        async with self.database.tenant(self.tenant) as connection:
            present = await self._present(connection)
            newest = await store.rows(connection, queries.newest_tools, {"cache": self.cache})
        specs = {name: remembered(tool.spec) for name, tool in present.tools.items()}
        specs |= {found["name"]: ToolSpec.model_validate(found["spec"]) for found in newest}
        return await self._learn(view, dict(present.given), specs)

    async def _learn(self, view: str, given: dict[str, Annotations], specs: Mapping[str, ToolSpec], comparisons: int | None = None) -> View:
        learner = Learner(self.database, self.tenant, self.cache)
        tools, learning = await learner.tools(view_tools(specs, given), given, comparisons)
        async with self.database.tenant(self.tenant) as connection:
            made = await self._create(connection, view, given, tools)
            await learner.keep(connection, view, learning)
        return made

    async def _present(self, connection: AsyncRows) -> View:
        found = await store.find_cache(connection, self.cache)
        return await store.load_view(connection, found["view"])

    async def _create(self, connection: AsyncRows, view: str, given: dict[str, Annotations], tools: list[ViewTool]) -> View:
        """A view that is not the cache's yet. What an attempt before this one left of it is dropped."""
        await connection.execute(queries.drop_keys, {"cache": self.cache, "view": view})
        await connection.execute(queries.drop_view, {"cache": self.cache, "view": view})
        await store.create_view(connection, view, self.cache, given, tools)
        return await store.load_view(connection, view)

    async def keys(self, view: View, beat: Beat, after: int = 0) -> int:
        """Keys everything that is committed past the revision `after`, until little is left; the revision that is reached."""
        reached, done = after, 0.0
        while True:
            async with self.database.tenant(self.tenant) as connection:
                revision = (await store.find_cache(connection, self.cache))["revision"]
                counted = await store.row(connection, queries.count_entries, {"cache": self.cache, "after": reached, "through": revision})
            left = counted["entries"] if counted else 0
            if reached and left <= LAST_UNDER_LOCK:
                return reached
            total = done + left
            async for rows in self._blocks(reached, revision):
                async with self.database.tenant(self.tenant) as connection:
                    await self._key(connection, view, rows)
                done += len(rows)
                await beat(done, total)
            reached = revision
            if not left:
                return reached

    async def switch(self, connection: AsyncRows, view: View, reached: int) -> int:
        """Makes a view that was keyed up to `reached` the cache's own, in the caller's transaction; the revision at which it takes over.

        Errors: ConflictError where more was recorded meanwhile than may be keyed under the lock: catch up and try again.
        """
        locked = await store.row(connection, queries.lock_cache, {"cache": self.cache})
        assert locked is not None
        revision = locked["revision"]
        await self._learn_late(connection, view, locked["view"])
        counted = await store.row(connection, queries.count_entries, {"cache": self.cache, "after": reached, "through": revision})
        if counted and counted["entries"] > LAST_UNDER_LOCK:
            raise ConflictError("The cache grows faster than its new view.", slug="view-behind")
        fresh = await store.load_view(connection, view.id)
        async for rows in _blocks(connection, self.cache, reached, revision):
            await self._key(connection, fresh, rows)
        await removals.catch_up(connection, self.cache, view.id)
        await connection.execute(queries.close_view, {"view": locked["view"], "revision": revision})
        await connection.execute(queries.switch_view, {"cache": self.cache, "view": view.id})
        return revision

    async def key_all(self, connection: AsyncRows, view: View, through: int) -> None:
        """Keys everything up to a revision in the caller's transaction."""
        async for rows in _blocks(connection, self.cache, 0, through):
            await self._key(connection, view, rows)

    async def _learn_late(self, connection: AsyncRows, view: View, present: str) -> None:
        """Takes over the tools that the present view got to know while this one was built."""
        late = [tool for name, tool in (await store.load_view(connection, present)).tools.items() if name not in view.tools]
        for tool in late:
            await store.add_view_tools(connection, view.id, self.cache, [tool], tool.since)

    async def _blocks(self, after: int, through: int) -> AsyncIterator[list[Row]]:
        source, step = "", -1
        while True:
            async with self.database.tenant(self.tenant) as connection:
                rows = await _block(connection, self.cache, after, through, source, step)
            if not rows:
                return
            yield rows
            source, step = rows[-1]["source"], rows[-1]["step"]

    async def _key(self, connection: AsyncRows, view: View, rows: list[Row]) -> None:
        await removals.hold(connection, view.id)
        histories = [row["history"] for row in rows if row["history"] is not None]
        found = await store.rows(connection, queries.chains, {"cache": self.cache, "ids": histories}) if histories else []
        links = [store.link_of(row) for row in found]
        keyed = await asyncio.to_thread(self._key_rows, view, rows, links)
        await store.insert_keys(connection, self.cache, view.id, key_columns(keyed), [row["revision"] for row in rows])
        await removals.hide(connection, self.cache, view.id, rows)

    def _key_rows(self, view: View, rows: list[Row], links: list[Link]) -> list[KeyRow]:
        specs = {name: tool.spec for name, tool in view.tools.items()}
        states = states_of(links, view.id, specs)
        keyed: list[KeyRow] = []
        for row in rows:
            event, history = _event(row), row["history"]
            state = states[bytes(history)] if history is not None else State.start(view.id)
            spec = specs.get(event.name)
            keyed.append(key_row(_entry(row), event.arguments, event.content, event.transient, scoped(state, event.call, spec), spec))
        for made, vector in zip(keyed, embedded(self.embedder, view.embedder, [made.text for made in keyed]), strict=True):
            made.embedding = vector
        return keyed


async def _block(connection: AsyncRows, cache: str, after: int, through: int, source: str, step: int) -> list[Row]:
    place: dict[str, Any] = {"cache": cache, "after": after, "through": through, "source": source, "step": step, "limit": BLOCK}
    return await store.rows(connection, queries.entries_in_order, place)


async def _blocks(connection: AsyncRows, cache: str, after: int, through: int) -> AsyncIterator[list[Row]]:
    """Entries in the order of their sources, within one transaction."""
    source, step = "", -1
    while rows := await _block(connection, cache, after, through, source, step):
        yield rows
        source, step = rows[-1]["source"], rows[-1]["step"]


def _event(row: Row) -> Event:
    return Event(row["tool"], row["arguments"], row["result"], row["is_error"], step=row["step"], schema_hash=row["schema_hash"])


def _entry(row: Row) -> EntryRow:
    return EntryRow(
        id=row["id"],
        tool=row["tool"],
        arguments="",
        result="",
        is_error=row["is_error"],
        scenario=row["scenario"],
        source=row["source"],
        step=row["step"],
        task=row["task"],
        history=row["history"],
        schema_hash=row["schema_hash"],
        content_hash=b"",
        recorded_at=row["recorded_at"],
        line=0,
    )
