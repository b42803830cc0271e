"""The cache's rows in Postgres: every statement lives in `queries.sql`, every function here is one of them or a few.

Functions take the connection of a tenant's transaction (`Database.tenant`); nobody here decides what is served.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from cacherl.api.cache import Cache, ToolCalibration
from cacherl.errors import NotFoundError
from cacherl.tier import CallOutcome
from cacherl.tool_spec import Annotations, ToolSpec
from services.cache_api.event import Link
from services.cache_api.spool import Block, Columns
from services.cache_api.view import View, ViewTool
from services.kit.postgres import AsyncRows, load_queries

queries = load_queries(Path(__file__).with_name("queries.sql"))
Row = dict[str, Any]


async def rows(connection: AsyncRows, query: Any, parameters: Row) -> list[Row]:
    """All rows of a statement."""
    return await (await connection.execute(query, parameters)).fetchall()


async def row(connection: AsyncRows, query: Any, parameters: Row) -> Row | None:
    """The first row of a statement."""
    return await (await connection.execute(query, parameters)).fetchone()


async def find_cache(connection: AsyncRows, cache: str) -> Row:
    """The row of a cache by id or name; NotFoundError `no-such-cache`."""
    found = await row(connection, queries.find_cache, {"cache": cache})
    if found is None:
        raise NotFoundError("There is no such cache.", slug="no-such-cache")
    return found


def cache_model(found: Row) -> Cache:
    """A cache as it is answered."""
    return Cache.model_validate({name: found[name] for name in Cache.model_fields})


async def load_view(connection: AsyncRows, view: str) -> View:
    """A view with its tools; NotFoundError `no-such-view`."""
    found = await row(connection, queries.view, {"view": view})
    if found is None:
        raise NotFoundError("There is no such view.", slug="no-such-view")
    tools = await rows(connection, queries.view_tools, {"view": view})
    return View(
        id=found["id"],
        cache=found["cache_id"],
        version=found["version"],
        covers_from=found["covers_from"],
        covers_through=found["covers_through"],
        given={name: Annotations.model_validate(value) for name, value in found["given"].items()},
        tools={t["name"]: ViewTool(ToolSpec.model_validate(t["spec"]), t["schema_hash"], t["since"]) for t in tools},
        calibration=tuple(ToolCalibration.model_validate(item) for item in found["calibration"] or []),
        embedder=found["embedder"],
    )


async def create_view(connection: AsyncRows, view: str, cache: str, given: dict[str, Annotations], tools: Iterable[ViewTool]) -> None:
    """A view and the tools it begins with; nothing is switched."""
    said = {name: annotations.model_dump(mode="json", exclude_unset=True) for name, annotations in given.items()}
    await connection.execute(queries.create_view, {"id": view, "cache": cache, "given": to_json(said).decode()})
    await add_view_tools(connection, view, cache, list(tools), 0)


async def add_view_tools(connection: AsyncRows, view: str, cache: str, tools: list[ViewTool], since: int) -> None:
    """Tools that a view learns to know at a revision."""
    if tools:
        await connection.execute(
            queries.add_view_tools,
            {
                "view": view,
                "cache": cache,
                "since": since,
                "names": [tool.spec.name for tool in tools],
                "specs": [tool.spec.model_dump_json() for tool in tools],
                "hashes": [tool.schema_hash for tool in tools],
            },
        )


async def keep_tools(connection: AsyncRows, cache: str, specs: dict[tuple[str, str | None], ToolSpec], revision: int) -> None:
    """Specs as they were recorded, each schema of a tool once."""
    if specs:
        await connection.execute(
            queries.keep_tools,
            {
                "cache": cache,
                "revision": revision,
                "names": [name for name, _ in specs],
                "hashes": [found or "" for _, found in specs],
                "specs": [spec.model_dump_json() for spec in specs.values()],
            },
        )


async def insert_block(connection: AsyncRows, cache: str, view: str, block: Block, revision: int) -> tuple[int, int, list[int]]:
    """(stored, conflicting, lines that contradict what is stored): entries that are there already by source and step stay as they are."""
    entries = {name: column for name, column in block.entries.items() if name != "line"}
    written = {**documents(entries), "cache": cache, "revision": revision}
    inserted = {found["id"] for found in await rows(connection, queries.insert_entries, written)}
    old = [index for index, name in enumerate(entries["id"]) if name not in inserted]
    contradicted: list[int] = []
    if old:
        wanted = documents({name: [entries[name][index] for index in old] for name in ("source", "step", "content_hash")})
        found = await rows(connection, queries.contradicted, {**wanted, "cache": cache})
        contradicted = [block.entries["line"][old[row["n"]]] for row in found]
    if not inserted:
        return 0, 0, contradicted
    await insert_links(connection, cache, block.links)
    keys = _only(block.keys, inserted)
    await insert_keys(connection, cache, view, keys, revision)
    wanted = documents({name: keys[name] for name in ("entry", "key", "scoped_state", "scenario", "result_digest")})
    counted = await row(connection, queries.conflicting, {**wanted, "cache": cache, "view": view, "revision": revision})
    return len(inserted), counted["conflicting"] if counted else 0, contradicted


def documents(columns: Columns) -> Row:
    """Columns as the inserting statements take them: each a JSON array."""
    return {name: to_json(column).decode() for name, column in columns.items()}


def _only(keys: Columns, entries: set[str]) -> Columns:
    kept = [index for index, name in enumerate(keys["entry"]) if name in entries]
    return keys if len(kept) == len(keys["entry"]) else {name: [column[index] for index in kept] for name, column in keys.items()}


async def insert_keys(connection: AsyncRows, cache: str, view: str, keys: Columns, revision: int | list[int]) -> None:
    """Keys of entries in a view."""
    revisions = [revision] * len(keys["entry"]) if isinstance(revision, int) else revision
    await connection.execute(queries.insert_keys, {**documents({**keys, "revision": revisions}), "cache": cache, "view": view})


async def insert_links(connection: AsyncRows, cache: str, links: Columns) -> None:
    """Histories; those that are there already are the same by content."""
    if links["id"]:
        await connection.execute(queries.insert_links, {**documents(links), "cache": cache})


def link_of(found: Row) -> Link:
    """A link as it was stored."""
    return Link(
        id=bytes(found["id"]),
        parent=bytes(found["parent"]) if found["parent"] is not None else None,
        name=found["tool"],
        arguments=found["arguments"],
        outcome=CallOutcome(found["outcome"]),
        is_error=found["is_error"],
        transient=found["transient"],
        mentions=tuple(found["mentions"]),
    )
