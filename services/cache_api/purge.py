"""Purging and erasing: what was recorded wrongly is hidden from the revisions that follow, or its bytes are removed.

A purge is a batch like any other: it takes the cache's row, gets the next revision, and whoever is pinned to an older one reads on as
before. An erasure also removes what matches everywhere: entries, their keys and embeddings in every view, misses of the same calls, and
the histories that only they had. Where recordings that stay hold an erased call in their history, its content is blanked: present views
keep their keys (digests), later ones treat it as a call that nobody answered. Revisions that saw anything of it are then gone (410);
those that never did answer as before.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cacherl.api.cache_operations import Purge, PurgeCreate
from cacherl.errors import GoneError, NotFoundError
from services.cache_api import store
from services.cache_api.event import Event, link
from services.cache_api.spool import Spool
from services.cache_api.store import Row, queries
from services.kit.identifiers import new_id
from services.kit.postgres import AsyncRows, load_queries

operations = load_queries(Path(__file__).with_name("operations.sql"))
BLOCK = 500
LINKS = 20_000
LINK_HEX = 32


async def purge(connection: AsyncRows, cache: str, request: PurgeCreate, folder: Path | None) -> Purge:
    """Purges in the caller's transaction. `folder` is where an erasure spools. Errors: NotFoundError `no-such-cache`."""
    locked = await store.row(connection, queries.lock_cache, {"cache": cache})
    if locked is None:
        raise NotFoundError("There is no such cache.", slug="no-such-cache")
    present, revision = locked["revision"], locked["revision"] + 1
    filters = _filters(request, await store.find_cache(connection, cache), revision)
    found = await store.row(connection, operations.matching, filters)
    assert found is not None
    matched = found["matched"] if request.erase else found["visible"]
    if request.dry_run or not matched:
        return Purge(id=None, revision=present, matched=matched, removed=0, erased=0)
    made = Purge(id=new_id("prg"), revision=revision, matched=matched, removed=found["visible"], erased=0)
    if request.erase:
        await _erase(connection, filters, made, folder)
    else:
        await connection.execute(operations.purge, filters)
    moved = {"cache": cache, "revision": revision, "removed": made.removed, "saw": found["saw"] if request.erase else "{}"}
    await connection.execute(operations.move_cache_back, moved)
    kind = "erase" if request.erase else "purge"
    committed = {"cache": cache, "id": made.id, "revision": revision, "answer": made.model_dump_json(), "kind": kind}
    await connection.execute(operations.commit_operation, committed)
    return made


async def delete_cache(connection: AsyncRows, cache: str) -> None:
    """Removes a cache with everything in it, in the caller's transaction.

    The cache's row goes first: whoever keys one of its views holds that (`hold_view`), so nothing is written behind what is deleted.
    """
    await connection.execute(operations.delete_cache, {"cache": cache})
    for query in (operations.delete_keys, operations.delete_entries, operations.delete_links):
        await connection.execute(query, {"cache": cache})


def refuse_erased(erased: Any, revision: int) -> None:
    """Raises GoneError `revision-erased` for a revision of which something was erased; `erased` is a multirange or null."""
    for gone in erased or ():
        if revision in gone:
            raise GoneError(f"Something that revision {revision} saw was erased: pin a newer one.", slug="revision-erased")


def _filters(request: PurgeCreate, cache: Row, revision: int) -> Row:
    return {
        "cache": cache["id"],
        "revision": revision,
        "since": cache["created_at"],
        "tool": request.tool,
        "source": request.source,
        "before": request.recorded_before,
        "entries": request.entries,
    }


async def _erase(connection: AsyncRows, filters: Row, made: Purge, folder: Path | None) -> None:
    """Removes the bytes, a block at a time."""
    cache = filters["cache"]
    with Spool(folder) as own:
        after = ""
        while rows := await store.rows(connection, operations.matching_block, filters | {"after": after, "limit": BLOCK}):
            after = rows[-1]["id"]
            for row in rows:
                own.write(_own_link(row).hex().encode())
            erased = await store.row(connection, operations.erase_entries, {"cache": cache, "entries": [row["id"] for row in rows]})
            made.erased += erased["erased"] if erased else 0
        await connection.execute(operations.nested_loops, {"how": "off"})
        dropped = await store.row(connection, operations.drop_unreachable_links, {"cache": cache})
        await connection.execute(operations.nested_loops, {"how": "on"})
        made.links_dropped = dropped["dropped"] if dropped else 0
        for links in _many(own):
            made.links_blanked += await _blank(connection, cache, links)


def _many(spool: Spool) -> Iterator[list[bytes]]:
    links: list[bytes] = []
    for line in spool.read():
        links.append(bytes.fromhex(line[:LINK_HEX].decode()))
        if len(links) >= LINKS:
            yield links
            links = []
    if links:
        yield links


async def _blank(connection: AsyncRows, cache: str, links: list[bytes]) -> int:
    """Blanks those of the links that are left, unless another recording says the very same."""
    left = await store.rows(connection, operations.links_left, {"cache": cache, "ids": links})
    if not left:
        return 0
    parents = [row["parent"] for row in left]
    asked = {
        "cache": cache,
        "tools": sorted({row["tool"] for row in left}),
        "parents": [parent for parent in parents if parent is not None],
        "roots": None in parents,
    }
    said = {_own_link(row) for row in await store.rows(connection, operations.entries_after_links, asked)}
    blank = [row["id"] for row in left if bytes(row["id"]) not in said]
    await connection.execute(operations.blank_links, {"cache": cache, "ids": blank})
    return len(blank)


def _own_link(row: Row) -> bytes:
    """The link that stands for an entry in the histories of what came after it."""
    history = row["history"]
    return link(bytes(history) if history is not None else None, Event(row["tool"], row["arguments"], row["result"], row["is_error"])).id
