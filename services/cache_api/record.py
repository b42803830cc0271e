"""Ingestion: a stream of lines becomes one batch, all of it at one revision or none.

Lines are read in bounded memory, freed of secrets, keyed and embedded for the cache's present view, and spooled. Then one transaction
takes the cache's row, gives the batch the next revision and inserts the rows; so revisions commit in order, whoever is pinned to an older
one sees nothing of it, and a process that dies leaves nothing behind. A batch that was committed answers as it did, for ever. What was
recorded under a source and step is never overwritten: the same again is a duplicate, something else is refused.
"""

import asyncio
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from psycopg.errors import DeadlockDetected

from cacherl.api.cache import Ingested, LineProblem
from cacherl.api.common import FieldError
from cacherl.errors import ConflictError, DataError, InputError
from cacherl.tool_spec import ToolSpec
from services.cache_api import store
from services.cache_api.embed import Embedder, embedded
from services.cache_api.event import Track, tool_names
from services.cache_api.keying import Keyed, Specs, keyed
from services.cache_api.learning import given_with, specs_for, view_tools
from services.cache_api.reading import Reader, line_problem, split_lines
from services.cache_api.redact import Redactor
from services.cache_api.settings import CacheSettings
from services.cache_api.spool import BLOCK, Block, Spool, block
from services.cache_api.store import queries
from services.cache_api.view import View, ViewTool
from services.cache_api.views import Views
from services.kit.identifiers import ALPHABET, new_id
from services.kit.postgres import AsyncRows, Database

KEPT_PROBLEMS = 100
LINES_AT_ONCE = 200
BYTES_AT_ONCE = 1 << 20
ATTEMPTS = 8
COUNTER_DIGITS = 7
log = structlog.get_logger(__name__)


class MovedError(Exception):
    """The cache's view changed between keying and committing: key again."""


@dataclass
class Intake:
    """One ingestion under way."""

    batch: str
    tracks: Spool
    reader: Reader
    names: set[str] = field(default_factory=set)
    read: int = 0
    problems: list[LineProblem] = field(default_factory=list)
    refused: int = 0

    def refuse(self, problem: LineProblem) -> None:
        """Notes a refused line; the first hundred in full."""
        self.refused += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(problem)

    def take(self, lines: list[tuple[int, bytes | None]]) -> None:
        """Reads lines into the spool."""
        for number, line in lines:
            self.read += 1
            try:
                if line is None:
                    raise DataError("The line is longer than the limit.", line=number)
                track = self.reader.read(line, number)
            except DataError as error:
                self.refuse(line_problem(error, number))
                continue
            if track.entries:
                self.names |= tool_names([track])
                self.tracks.write(track.dump())


class Recorder:
    """Records batches into caches."""

    def __init__(self, database: Database, views: Views, embedder: Embedder, redactor: Redactor, settings: CacheSettings) -> None:
        self.database = database
        self.views = views
        self.embedder = embedder
        self.redactor = redactor
        self.settings = settings

    async def ingest(self, tenant: str, cache: str, batch: str, chunks: AsyncIterable[bytes], *, atomic: bool) -> dict[str, Any]:
        """What the batch did (`Ingested` as a dict). With `atomic`: InputError `refused-lines` where a line is refused."""
        async with self.database.tenant(tenant) as connection:
            answered = await store.row(connection, queries.claim_batch, {"cache": cache, "batch": batch})
            known = {name: tool.spec for name, tool in (await self.views.present(connection, cache)).tools.items()}
        if answered is not None:
            async for _ in chunks:
                pass
            return answered["answer"]
        with Spool(self.settings.spool_dir) as tracks:
            intake = Intake(batch, tracks, Reader(self.redactor, known))
            async for lines in _groups(split_lines(chunks, self.settings.max_line_bytes)):
                await asyncio.to_thread(intake.take, lines)
            if atomic and intake.refused:
                raise _refused_lines(intake)
            return await self._commit(tenant, cache, intake, atomic=atomic)

    async def store(self, tenant: str, cache: str, tracks: list[Track], batch: str) -> dict[str, Any]:
        """Records tracks that the service made itself; they are free of secrets."""
        with Spool(self.settings.spool_dir) as spool:
            intake = Intake(batch, spool, Reader(self.redactor, {}), names=tool_names(tracks), read=len(tracks))
            for track in tracks:
                spool.write(track.dump())
            return await self._commit(tenant, cache, intake, atomic=False)

    async def _commit(self, tenant: str, cache: str, intake: Intake, *, atomic: bool) -> dict[str, Any]:
        with Spool(self.settings.spool_dir) as blocks:
            for _ in range(ATTEMPTS):
                async with self.database.tenant(tenant) as connection:
                    view = await self.views.present(connection, cache)
                try:
                    added = await asyncio.to_thread(self._prepare, view, intake, blocks)
                    async with self.database.tenant(tenant) as connection:
                        return await self._write(connection, view, added, intake, blocks, atomic=atomic)
                except (MovedError, DeadlockDetected) as error:
                    log.info("keying again", action="ingest", cache=cache, reason=type(error).__name__)
                    blocks.clear()
        raise ConflictError(
            "The cache's view changed too often while the batch was prepared. Send the batch again.", slug="view-keeps-changing"
        )

    def _prepare(self, view: View, intake: Intake, blocks: Spool) -> list[ViewTool]:
        """Keys and embeds the spooled tracks under a view, into blocks; the tools that the view does not have yet."""
        new = {name for name in intake.names | {name for name, _ in intake.reader.found} if name not in view.tools}
        specs = specs_for(new, intake.reader.found)
        given = given_with(view.given, specs.values())
        added = view_tools(specs, given)
        all_specs: Specs = {name: tool.spec for name, tool in view.tools.items()} | {tool.spec.name: tool.spec for tool in added}
        rows: list[Keyed] = []
        ids = entry_ids()
        for line in intake.tracks.read():
            for item in keyed(Track.load(line), view.id, all_specs, ids):
                rows.append(item)
                if len(rows) >= BLOCK:
                    blocks.write(self.embedded(view, rows).dump())
                    rows = []
        if rows:
            blocks.write(self.embedded(view, rows).dump())
        return added

    def embedded(self, view: View, rows: list[Keyed]) -> Block:
        """Rows with their vectors, as a block."""
        for item, vector in zip(rows, embedded(self.embedder, view.embedder, [row.key.text for row in rows]), strict=True):
            item.key.embedding = vector
        return block(rows)

    async def _write(
        self, connection: AsyncRows, view: View, added: list[ViewTool], intake: Intake, blocks: Spool, *, atomic: bool
    ) -> dict[str, Any]:
        cache = view.cache
        locked = await store.row(connection, queries.lock_cache, {"cache": cache})
        answered = await store.row(connection, queries.claim_batch, {"cache": cache, "batch": intake.batch})
        if answered is not None:
            return answered["answer"]
        present = await store.row(connection, queries.view_version, {"view": view.id})
        if locked is None or present is None or (locked["view"], present["version"]) != (view.id, view.version):
            raise MovedError
        revision = locked["revision"] + 1
        done = await _insert(connection, view, blocks, revision)
        if atomic and done.contradicting:
            for number in done.contradicting:
                intake.refuse(_contradiction(number))
            raise _refused_lines(intake)
        if added:
            await store.add_view_tools(connection, view.id, cache, added, revision)
            await connection.execute(queries.grow_view, {"view": view.id})
        await store.keep_tools(connection, cache, _kept_specs(intake.reader.found, added), revision)
        revision = revision if done.stored or added else locked["revision"]
        await connection.execute(queries.move_cache, {"cache": cache, "revision": revision, "stored": done.stored})
        answer = _answer(intake, done, revision)
        await connection.execute(
            queries.commit_batch, {"cache": cache, "batch": intake.batch, "revision": revision, "answer": answer.model_dump_json()}
        )
        return answer.model_dump(mode="json")


@dataclass
class Inserted:
    """What the blocks of a batch did."""

    entries: int = 0
    stored: int = 0
    conflicting: int = 0
    contradicting: list[int] = field(default_factory=list)
    """Lines."""


async def _insert(connection: AsyncRows, view: View, blocks: Spool, revision: int) -> Inserted:
    done = Inserted()
    for line in blocks.read():
        read = Block.load(line)
        stored, conflicting, contradicting = await store.insert_block(connection, view.cache, view.id, read, revision)
        done.entries, done.stored, done.conflicting = done.entries + len(read), done.stored + stored, done.conflicting + conflicting
        done.contradicting += contradicting
    return done


def _answer(intake: Intake, done: Inserted, revision: int) -> Ingested:
    contradictions = done.contradicting
    problems = [*intake.problems, *map(_contradiction, contradictions)][:KEPT_PROBLEMS]
    return Ingested(
        batch=intake.batch,
        read=intake.read,
        stored=done.stored,
        duplicate=done.entries - done.stored - len(contradictions),
        conflicting=done.conflicting,
        refused=problems,
        refused_total=intake.refused + len(contradictions),
        revision=revision,
    )


def _kept_specs(found: dict[tuple[str, str | None], ToolSpec], added: list[ViewTool]) -> dict[tuple[str, str | None], ToolSpec]:
    return found | {(tool.spec.name, tool.schema_hash): tool.spec for tool in added if (tool.spec.name, tool.schema_hash) not in found}


def _contradiction(number: int) -> LineProblem:
    detail = "This source and step were recorded before with another content; a recording is never overwritten."
    return LineProblem(line=number, errors=[], detail=detail)


def _refused_lines(intake: Intake) -> InputError:
    faults = [fault for problem in intake.problems for fault in problem.errors or [FieldError(detail=problem.detail, line=problem.line)]]
    errors = [fault.model_dump(exclude_none=True) for fault in faults]
    return InputError(f"{intake.refused} of {intake.read} lines are refused; nothing was stored.", errors=errors, slug="refused-lines")


def entry_ids() -> Iterator[str]:
    """Entry ids in rising order: a new id whose last digits count."""
    start = new_id("ent")[:-COUNTER_DIGITS]
    for number in range(len(ALPHABET) ** COUNTER_DIGITS):
        digits = []
        for _ in range(COUNTER_DIGITS):
            number, digit = divmod(number, len(ALPHABET))  # noqa: PLW2901 - taken apart digit by digit
            digits.append(ALPHABET[digit])
        yield start + "".join(reversed(digits))


async def _groups(lines: AsyncIterable[bytes | None]) -> AsyncIterable[list[tuple[int, bytes | None]]]:
    """Numbered lines in groups of bounded size; empty lines are passed over and keep their number."""
    group: list[tuple[int, bytes | None]] = []
    size = number = 0
    async for line in lines:
        number += 1
        if line is not None and not line.strip():
            continue
        group.append((number, line))
        size += len(line or b"")
        if len(group) >= LINES_AT_ONCE or size >= BYTES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group
