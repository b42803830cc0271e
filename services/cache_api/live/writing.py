"""Storing live calls: what many requests of one cache made at the same time is committed together, in one statement.

Rows are keyed by whoever made them, under the view that they were made under. Where that view is not the cache's any more, or lacks a tool,
the recorder keys them anew from the whole episode. A place that was recorded before is never overwritten. Whoever waits for a row that
cannot be stored gets the error; the rows of others are not held back by it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from psycopg.errors import DataError as BadData
from psycopg.errors import DeadlockDetected
from pydantic_core import to_json

from cacherl.errors import ConflictError
from services.cache_api import store
from services.cache_api.embed import Embedder, embedded
from services.cache_api.event import Link
from services.kit.identifiers import new_id
from services.kit.postgres import Database, load_queries

queries = load_queries(Path(__file__).with_name("queries.sql"))
AT_ONCE = 2_000
KEPT_VECTORS = 4_096


@dataclass(slots=True)
class Row:
    """One live call as it is stored: what an entry, its key in a view and its link say."""

    id: str
    tool: str
    arguments: str
    result: str
    is_error: bool
    scenario: str
    source: str
    step: int
    task: str | None
    history: bytes | None
    schema_hash: str | None
    content_hash: bytes
    recorded_at: datetime
    key: bytes
    identity: bytes
    scoped_state: bytes | None
    result_digest: bytes
    transient: bool
    text: str
    """What is embedded."""


@dataclass(slots=True)
class Submission:
    """The rows of one request on their way."""

    rows: Sequence[Row]
    links: Sequence[Link]
    done: "asyncio.Future[list[str] | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def resolve(self, ids: list[str] | None) -> None:
        """Gives the ids, None where the view moved."""
        if not self.done.done():
            self.done.set_result(ids)

    def fail(self, error: BaseException) -> None:
        """Gives an error."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Place:
    """Where live calls go, and how they were keyed."""

    tenant: str
    cache: str
    view: str
    version: int
    embedder: str | None


class LiveWriter:
    """Commits live calls, those of one cache together."""

    def __init__(self, database: Database, embedder: Embedder) -> None:
        self.database = database
        self.embedder = embedder
        self._waiting: dict[Place, list[Submission]] = {}
        self._writing: dict[Place, asyncio.Task[None]] = {}
        self._vectors: OrderedDict[str, str | None] = OrderedDict()

    async def store(self, place: Place, rows: Sequence[Row], links: Sequence[Link]) -> list[str] | None:
        """The entries' ids, in order; None where the view moved, and nothing was stored.

        Errors: ConflictError `recorded-otherwise` where another call stands at a place already; the other rows are stored all the same.
        """
        submission = Submission(rows, links)
        self._waiting.setdefault(place, []).append(submission)
        if place not in self._writing:
            self._writing[place] = asyncio.create_task(self._drain(place))
        return await submission.done

    async def close(self) -> None:
        """Waits for what is being written."""
        await asyncio.gather(*self._writing.values(), return_exceptions=True)

    async def _drain(self, place: Place) -> None:
        try:
            while waiting := self._waiting.pop(place, None):
                for group in _groups(waiting):
                    await self._commit(place, group)
        finally:
            del self._writing[place]

    async def _commit(self, place: Place, group: list[Submission]) -> None:
        try:
            await self._write(place, group)
        except (BadData, DeadlockDetected) as error:
            if len(group) == 1:
                group[0].fail(error)
            else:  # one bad row is nobody else's fault
                for submission in group:
                    await self._commit(place, [submission])
        except Exception as error:
            for submission in group:
                submission.fail(error)

    async def _write(self, place: Place, group: list[Submission]) -> None:
        rows = [row for submission in group for row in submission.rows]
        links = list({link.id: link for submission in group for link in submission.links}.values())
        vectors = self._embedded(place.embedder, [row.text for row in rows])
        values = {
            "tenant": place.tenant,
            "cache": place.cache,
            "batch": new_id("bat"),
            "view": place.view,
            "version": place.version,
            "entries": orjson.dumps([_entry(n, row, vectors[row.text]) for n, row in enumerate(rows)]).decode(),
            "arguments": [row.arguments for row in rows],
            "results": [row.result for row in rows],
            "links": orjson.dumps([_link(n, link) for n, link in enumerate(links)]).decode(),
            "link_arguments": [to_json(link.arguments).decode() for link in links],
        }
        # One statement that is a transaction of its own and sets its tenant itself: three round trips less.
        async with self.database.maintenance() as connection:
            found = await store.rows(connection, queries.record_live, values)
        by_number = {one["n"]: one for one in found}
        first = 0
        for submission in group:
            mine = [by_number.get(number) for number in range(first, first + len(submission.rows))]
            first += len(submission.rows)
            if not found:
                submission.resolve(None)
            elif all(one is not None and one["same"] for one in mine):
                submission.resolve([one["id"] for one in mine if one is not None])
            else:
                submission.fail(ConflictError("Another call was recorded at this place of the episode.", slug="recorded-otherwise"))

    def _embedded(self, embedder: str | None, texts: list[str]) -> dict[str, str | None]:
        """Vectors by text; the siblings of a group make the same calls, so the last ones are kept."""
        kept = self._vectors
        if embedder is None:
            return dict.fromkeys(texts)
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        found = {text: kept[text] for text in texts if text in kept}
        found |= dict(zip(new, embedded(self.embedder, embedder, new) if new else (), strict=True))
        kept.update(found)
        while len(kept) > KEPT_VECTORS:
            kept.popitem(last=False)
        return found


def _groups(waiting: list[Submission]) -> list[list[Submission]]:
    groups: list[list[Submission]] = [[]]
    size = 0
    for submission in waiting:
        if size and size + len(submission.rows) > AT_ONCE:
            groups.append([])
            size = 0
        groups[-1].append(submission)
        size += len(submission.rows)
    return groups


def _entry(n: int, row: Row, vector: str | None) -> dict[str, Any]:
    return {
        "n": n,
        "id": row.id,
        "tool": row.tool,
        "is_error": row.is_error,
        "scenario": row.scenario,
        "source": row.source,
        "step": row.step,
        "task": row.task,
        "history": _bytes(row.history),
        "schema_hash": row.schema_hash,
        "content_hash": _bytes(row.content_hash),
        "recorded_at": row.recorded_at,
        "key": _bytes(row.key),
        "identity": _bytes(row.identity),
        "scoped_state": _bytes(row.scoped_state),
        "result_digest": _bytes(row.result_digest),
        "transient": row.transient,
        "embedding": orjson.Fragment(vector) if vector is not None else None,
    }


def _link(n: int, link: Link) -> dict[str, Any]:
    return {
        "n": n,
        "id": _bytes(link.id),
        "parent": _bytes(link.parent),
        "tool": link.name,
        "outcome": link.outcome.value,
        "is_error": link.is_error,
        "transient": link.transient,
        "mentions": link.mentions,
    }


def _bytes(value: bytes | None) -> str | None:
    """As Postgres reads them."""
    return f"\\x{value.hex()}" if value is not None else None
