"""Entries: record in bulk, list."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request

from cacherl.api.cache import EntryView, Ingested
from cacherl.api.common import Page
from cacherl.errors import TooLargeError
from cacherl.tier import ToolResult
from services.cache_api import store
from services.cache_api.parts import PartsOf, Reader, Writer
from services.cache_api.settings import GIBIBYTE
from services.cache_api.store import Row, queries
from services.kit.identifiers import new_id
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor

router = APIRouter(prefix="/v1/caches/{cache}/entries", tags=["entries"])
Batch = Annotated[
    str | None, Query(min_length=1, max_length=200, pattern=r"^[!-~]+$", description="The same batch again answers as it did.")
]
NDJSON = {"requestBody": {"required": True, "content": {"application/x-ndjson": {"schema": {"type": "string"}}}}}


@router.post("", summary="Record trajectories or single calls", openapi_extra=NDJSON, max_body_size=1024 * GIBIBYTE)
async def ingest(
    cache: str,
    request: Request,
    caller: Writer,
    parts: PartsOf,
    batch: Batch = None,
    atomic: Annotated[bool, Query(description="All lines or none.")] = False,
) -> Ingested:
    """NDJSON: whole trajectories, or single calls with their history. One batch is one revision; a bad line is refused by number."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
    answer = await parts.recorder.ingest(
        caller.tenant, found["id"], batch or new_id("bat"), at_most(request.stream(), parts.settings.max_ingestion_bytes), atomic=atomic
    )
    return Ingested.model_validate(answer)


async def at_most(chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[bytes]:
    """A stream up to `limit` bytes. Errors: TooLargeError beyond."""
    left = limit
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise TooLargeError(f"An ingestion has at most {limit} bytes: send it in several batches.")
        yield chunk


@router.get("", summary="List entries")
async def list_entries(
    cache: str, caller: Reader, parts: PartsOf, tool: str | None = None, limit: Limit = 100, cursor: Cursor = None
) -> Page[EntryView]:
    """In the order of recording."""
    after = decode_cursor(cursor, 1)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        rows = await store.rows(
            connection,
            queries.list_entries,
            {"cache": found["id"], "tool": tool, "after": str(after[0]) if after else None, "limit": limit + 1},
        )
    items = [entry_view(row) for row in rows[:limit]]
    return Page[EntryView](items=items, next_cursor=encode_cursor(items[-1].id) if len(rows) > limit else None)


def entry_view(row: Row) -> EntryView:
    """An entry as it is listed."""
    result = ToolResult(content=row["result"], is_error=row["is_error"])
    return EntryView(**{name: value for name, value in row.items() if name not in ("result", "is_error")}, result=result)
