"""Snapshots: a cache at one revision as a file (`cacherl.snapshot`), and a new cache from such a file.

Export streams: a block of entries and the histories that they need at a time, each in a transaction of its own, so a slow reader holds up
nobody; what a revision sees never changes but by erasure, and where that happens meanwhile the stream breaks off without its end. Import
spools the file, and only when all its hashes are right writes everything in one transaction: until then there is nothing, afterwards a
cache that answers at that revision as the exported one did. Keys and embeddings are not in the file: they are computed anew, so a file of
another key version or embedder is refused.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Container, Iterable, Iterator, Sequence
from typing import Any

import orjson
from psycopg.errors import UniqueViolation
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from cacherl.api.cache_operations import SnapshotImported
from cacherl.errors import ConflictError, DataError, GoneError, TooLargeError
from cacherl.snapshot import (
    SLUG,
    SnapshotCache,
    SnapshotEntry,
    SnapshotHead,
    SnapshotLink,
    SnapshotReader,
    SnapshotRecordedTool,
    SnapshotTool,
    SnapshotWriter,
)
from cacherl.tool_call import KEY_VERSION
from cacherl.tool_spec import ToolSpec
from cacherl.wire import Wire
from services.cache_api import store
from services.cache_api.build import Builder
from services.cache_api.embed import DIMENSION
from services.cache_api.event import Event, content_hash
from services.cache_api.lookup import Pins
from services.cache_api.parts import Parts
from services.cache_api.purge import operations
from services.cache_api.spool import Spool, link_columns
from services.cache_api.store import Row, queries
from services.kit.identifiers import new_id
from services.kit.postgres import AsyncRows

BLOCK = 500
RECENT = 50_000
"""Links that are remembered as written; one that falls out is written again, which is harmless."""
PARTS = ("tool", "recorded_tool", "link", "entry")


async def exported(parts: Parts, tenant: str, pins: Pins) -> AsyncIterator[bytes]:
    """The file. Errors: GoneError where something of it is erased on the way; the stream then has no end."""
    writer, recent = SnapshotWriter(), OrderedDict[bytes, None]()
    async with parts.database.tenant(tenant) as connection:
        yield await _head(connection, writer, pins)
    source, step = "", -1
    while True:
        async with parts.database.tenant(tenant) as connection:
            place = {"cache": pins.cache, "revision": pins.revision, "source": source, "step": step, "limit": BLOCK}
            rows = await store.rows(connection, operations.snapshot_entries, place)
            wanted = list({bytes(row["history"]) for row in rows if row["history"] is not None} - recent.keys())
            links = await store.rows(connection, operations.snapshot_links, {"cache": pins.cache, "ids": wanted}) if wanted else []
        if not rows:
            break
        yield await asyncio.to_thread(_block, writer, recent, links, rows)
        source, step = rows[-1]["source"], rows[-1]["step"]
    async with parts.database.tenant(tenant) as connection:
        found = await store.row(connection, operations.is_readable, {"cache": pins.cache, "revision": pins.revision})
    if found is None or not found["readable"]:
        raise GoneError("Something of this revision was erased while it was exported.", slug="revision-erased")
    yield writer.end()


async def _head(connection: AsyncRows, writer: SnapshotWriter, pins: Pins) -> bytes:
    asked = {"cache": pins.cache, "view": pins.view.id, "revision": pins.revision}
    found = await store.find_cache(connection, pins.cache)
    view = await store.row(connection, operations.snapshot_view, asked)
    assert view is not None
    cache = SnapshotCache(
        name=found["name"], revision=pins.revision, settings=pins.settings, embedder=found["embedder"], dimension=found["dimension"]
    )
    head = SnapshotHead(key_version=KEY_VERSION, cache=cache, view=from_json(view["row"]))
    out = [writer.add("head", head.model_dump(mode="json", by_alias=True))]
    for row in await store.rows(connection, operations.snapshot_tools, asked):
        out.append(writer.add("tool", {**row, "spec": orjson.Fragment(row["spec"])}))
    for row in await store.rows(connection, operations.snapshot_recorded_tools, asked):
        out.append(writer.add("recorded_tool", {**row, "spec": orjson.Fragment(row["spec"])}))
    return b"".join(out)


def _block(writer: SnapshotWriter, recent: OrderedDict[bytes, None], links: list[Row], rows: list[Row]) -> bytes:
    out: list[bytes] = []
    for row in _parents_first(links, recent):
        name = bytes(row["id"])
        recent[name] = None
        while len(recent) > RECENT:
            recent.popitem(last=False)
        parent = bytes(row["parent"]).hex() if row["parent"] is not None else None
        out.append(writer.add("link", {**row, "id": name.hex(), "parent": parent, "arguments": orjson.Fragment(row["arguments"])}))
    for row in rows:
        history = bytes(row["history"]).hex() if row["history"] is not None else None
        json = {name: orjson.Fragment(row[name]) for name in ("arguments", "result")}
        out.append(writer.add("entry", {**row, **json, "history": history}))
    return b"".join(out)


def _parents_first(links: list[Row], written: Container[bytes]) -> Iterator[Row]:
    """The links that are not written yet, each after its parent."""
    left = {bytes(row["id"]): row for row in links if bytes(row["id"]) not in written}
    while left:
        path, at = [], next(iter(left))
        while at in left:
            path.append(left.pop(at))
            at = bytes(path[-1]["parent"] or b"")
        yield from reversed(path)


class Import:
    """One file on its way in."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        settings = parts.settings
        self.reader = SnapshotReader(most=settings.max_ingestion_bytes, longest=settings.max_line_bytes)
        self.left = settings.max_ingestion_bytes
        self.specs: dict[str, ToolSpec] = {}
        self.spools = {kind: Spool(settings.spool_dir) for kind in PARTS}

    def close(self) -> None:
        """Drops what was spooled."""
        for spool in self.spools.values():
            spool.__exit__(None, None, None)

    def take(self, chunk: bytes) -> None:
        """Reads a chunk into the spools."""
        self.left -= len(chunk)
        if self.left < 0:
            raise TooLargeError("The snapshot is larger than this service takes.")
        for kind, value in self.reader.feed(chunk):
            if isinstance(value, SnapshotTool):
                self.specs[value.spec.name] = value.spec
            if isinstance(value, SnapshotLink | SnapshotEntry):
                self._redact(value)
            if kind in self.spools:
                self.spools[kind].write(value.model_dump_json(by_alias=True).encode())

    def _redact(self, value: SnapshotLink | SnapshotEntry) -> None:
        """What a service exported holds no secrets; what somebody else made of it may."""
        redactor = self.parts.redactor
        value.arguments = redactor.call(value.arguments, self.specs.get(value.tool))
        if isinstance(value, SnapshotEntry):
            value.result = redactor.value(value.result)
        else:
            value.mentions = redactor.value(value.mentions)

    def head(self) -> SnapshotHead:
        """The head of a file that was read whole. Errors as of `imported`."""
        end = self.reader.finish()
        self.sha256 = end.sha256
        head = self.reader.head
        assert head is not None, "a file that is whole has a head"
        _refuse_another(head, self.parts)
        return head

    def rows(self, kind: str, model: type[Wire]) -> Iterator[list[Any]]:
        """The lines of a kind, in blocks."""
        block: list[Any] = []
        for line in self.spools[kind].read():
            block.append(model.model_validate_json(line))
            if len(block) >= BLOCK:
                yield block
                block = []
        if block:
            yield block


async def imported(parts: Parts, tenant: str, name: str, chunks: AsyncIterable[bytes]) -> SnapshotImported:
    """A new cache from a file.

    Errors: DataError `broken-snapshot`; ConflictError `cache-exists`, `another-embedder`, `another-key-version`; TooLargeError.
    """
    work = Import(parts)
    try:
        async for chunk in chunks:
            await asyncio.to_thread(work.take, chunk)
        head = work.head()
        try:
            async with parts.database.tenant(tenant) as connection:
                return await _write(connection, work, head, tenant, name)
        except UniqueViolation:
            raise DataError("The snapshot holds the same thing twice.", slug=SLUG) from None
    finally:
        work.close()


async def _write(connection: AsyncRows, work: Import, head: SnapshotHead, tenant: str, name: str) -> SnapshotImported:
    cache, view, revision = new_id("cch"), new_id("viw"), head.cache.revision
    settings = head.cache.settings
    if settings.live_server not in (None, *work.parts.settings.live_servers):
        settings = settings.model_copy(update={"live_server": None})
    row = {"id": cache, "name": name, "view": view, "embedder": head.cache.embedder, "dimension": head.cache.dimension}
    if await store.row(connection, queries.create_cache, row | {"settings": settings.model_dump_json()}) is None:
        raise ConflictError("There is a cache of this name already.", slug="cache-exists")
    await _write_view(connection, work, head, cache, view)
    for links in work.rows("link", SnapshotLink):
        await _insert_links(connection, cache, links)
    for entries in work.rows("entry", SnapshotEntry):
        _refuse_later(entries, revision)
        await _need_links(connection, cache, {entry.history for entry in entries if entry.history is not None})
        await connection.execute(operations.import_entries, {"cache": cache, **await asyncio.to_thread(_columns, entries)})
    entries, links = work.spools["entry"].lines, work.spools["link"].lines
    await connection.execute(operations.begin_from_snapshot, {"cache": cache, "revision": revision, "entries": entries})
    builder = Builder(work.parts.database, work.parts.embedder, tenant, cache)
    await builder.key_all(connection, await store.load_view(connection, view), revision)
    made = SnapshotImported(
        cache=store.cache_model(await store.find_cache(connection, cache)), snapshot=work.sha256, entries=entries, links=links
    )
    answer = to_json({"stored": entries, "snapshot": work.sha256, "of": head.cache.name}).decode()
    committed = {"cache": cache, "id": new_id("snp"), "revision": revision, "answer": answer, "kind": "snapshot"}
    await connection.execute(operations.commit_operation, committed)
    return made


async def _write_view(connection: AsyncRows, work: Import, head: SnapshotHead, cache: str, view: str) -> None:
    known = {row["name"] for row in await store.rows(connection, operations.view_columns, {})}
    unknown = sorted(head.view.keys() - known)
    if unknown:
        raise ConflictError(f"The snapshot was made by a newer version: its view has {unknown[0]!r}.", slug="another-snapshot-version")
    await connection.execute(operations.import_view, {"row": to_json(head.view).decode(), "view": view, "cache": cache})
    for tools in work.rows("tool", SnapshotTool):
        columns = _tool_columns(tools) | {"since": [tool.since for tool in tools]}
        await connection.execute(operations.import_view_tools, {"view": view, "cache": cache, **columns})
    for tools in work.rows("recorded_tool", SnapshotRecordedTool):
        columns = _tool_columns(tools) | {"revisions": [tool.revision for tool in tools]}
        await connection.execute(operations.import_recorded_tools, {"cache": cache, **columns})
    try:
        await store.load_view(connection, view)
    except (ValidationError, AttributeError, TypeError):
        raise DataError("The snapshot's view cannot be read.", line=1, pointer="/head/view", slug=SLUG) from None


def _tool_columns(tools: Sequence[SnapshotTool | SnapshotRecordedTool]) -> dict[str, list[Any]]:
    return {
        "names": [tool.spec.name for tool in tools],
        "specs": [tool.spec.model_dump_json() for tool in tools],
        "hashes": [tool.schema_hash for tool in tools],
    }


async def _need_links(connection: AsyncRows, cache: str, names: set[str]) -> None:
    """Refuses what points to histories that did not come before it: so there is neither a gap nor a circle."""
    found = await store.row(connection, operations.links_there, {"cache": cache, "ids": [bytes.fromhex(name) for name in names]})
    if found is None or found["there"] != len(names):
        raise DataError("The snapshot lacks histories that something in it points to, or they come too late.", slug=SLUG)


async def _insert_links(connection: AsyncRows, cache: str, links: Sequence[SnapshotLink]) -> None:
    before: set[str] = set()
    needed: set[str] = set()
    for link in links:
        if link.parent is not None and link.parent not in before:
            needed.add(link.parent)
        before.add(link.id)
    await _need_links(connection, cache, needed)
    rows = [
        store.link_of(
            {
                **link.model_dump(),
                "id": bytes.fromhex(link.id),
                "parent": bytes.fromhex(link.parent) if link.parent is not None else None,
            }
        )
        for link in links
    ]
    await store.insert_links(connection, cache, link_columns(rows))


def _columns(entries: list[SnapshotEntry]) -> dict[str, list[Any]]:
    plain = ("id", "tool", "is_error", "scenario", "source", "step", "task", "schema_hash", "recorded_at", "revision")
    columns: dict[str, list[Any]] = {name: [getattr(entry, name) for entry in entries] for name in plain}
    events = [Event(entry.tool, entry.arguments, entry.result, entry.is_error) for entry in entries]
    return columns | {
        "arguments": [to_json(entry.arguments).decode() for entry in entries],
        "result": [to_json(entry.result).decode() for entry in entries],
        "history": [bytes.fromhex(entry.history) if entry.history is not None else None for entry in entries],
        "content_hash": [content_hash(event, entry.scenario) for event, entry in zip(events, entries, strict=True)],
    }


def _refuse_later(entries: Iterable[SnapshotEntry], revision: int) -> None:
    if any(entry.revision > revision for entry in entries):
        raise DataError("The snapshot holds entries of a later revision than its own.", slug=SLUG)


def _refuse_another(head: SnapshotHead, parts: Parts) -> None:
    if head.key_version != KEY_VERSION:
        raise ConflictError(
            f"The snapshot has keys of version {head.key_version}, this service of {KEY_VERSION}.", slug="another-key-version"
        )
    wanted = head.cache.embedder
    if wanted is not None and (wanted, head.cache.dimension) != (parts.embedder.name, DIMENSION):
        raise ConflictError(
            f"The snapshot's vectors are made by {wanted} with {head.cache.dimension} numbers, this service has {parts.embedder.name} "
            f"with {DIMENSION}.",
            slug="another-embedder",
        )
