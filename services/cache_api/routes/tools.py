"""A cache's tools: their annotations in force, how they are used, and what is missing."""

from typing import Annotated

from fastapi import APIRouter, Query

from cacherl.api.cache import CacheStats, Coverage, CoverageItem, ToolView, View, ViewCreate
from cacherl.api.common import Page
from cacherl.errors import NotFoundError
from cacherl.tool_spec import Annotations
from services.cache_api import jobs, store
from services.cache_api.coverage import missed_tools, tool_stats
from services.cache_api.parts import PartsOf, Reader, Writer
from services.cache_api.purge import operations
from services.cache_api.routes.views import refuse_unknown_tools
from services.cache_api.store import Row, queries
from services.cache_api.view import merged
from services.kit.postgres import AsyncRows

router = APIRouter(prefix="/v1/caches/{cache}", tags=["tools"])


@router.get("/tools", summary="Tools")
async def list_tools(cache: str, caller: Reader, parts: PartsOf) -> Page[ToolView]:
    """All tools of the cache, by name: few enough for one page."""
    async with parts.database.tenant(caller.tenant) as connection:
        return Page[ToolView](items=await tool_views(connection, await store.find_cache(connection, cache)))


@router.get("/tools/{tool:path}", summary="A tool")
async def get_tool(cache: str, tool: str, caller: Reader, parts: PartsOf) -> ToolView:
    """Its spec with the annotations in force: given ones, else inferred ones with their evidence."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await tool_views(connection, await store.find_cache(connection, cache))
    for view in found:
        if view.spec.name == tool:
            return view
    raise NotFoundError("The cache knows no such tool.", slug="no-such-tool")


@router.put("/tools/{tool:path}", status_code=202, summary="Annotate a tool")
async def annotate(cache: str, tool: str, body: Annotations, caller: Writer, parts: PartsOf) -> View:
    """The fields that are set override, in a new view that is built in the background. The same again changes nothing."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        await refuse_unknown_tools(connection, found["view"], {tool})
        given = (await store.load_view(connection, found["view"])).given.get(tool)
        if given is not None and merged(given, body) == given:
            return await jobs.view_model(connection, found["id"], found["view"])
        view = await jobs.add_view(connection, found["id"], ViewCreate(annotations={tool: body}))
    parts.worker.ring()
    return view


async def tool_views(connection: AsyncRows, cache: Row) -> list[ToolView]:
    """Every tool of a cache's view with its counts."""
    view = await store.load_view(connection, cache["view"])
    pins = {"cache": cache["id"], "view": cache["view"]}
    counts = {row["tool"]: row for row in await store.rows(connection, queries.tool_counts, pins)}
    conflicts = {row["tool"]: row["conflicting"] for row in await store.rows(connection, queries.conflict_counts, pins)}
    none = {"entries": 0, "keys": 0, "errors": 0}
    return [
        ToolView(
            spec=tool.spec,
            entries=counts.get(name, none)["entries"],
            keys=counts.get(name, none)["keys"],
            conflicting_keys=conflicts.get(name, 0),
            errors=counts.get(name, none)["errors"],
        )
        for name, tool in sorted(view.tools.items())
    ]


@router.get("/stats", summary="Counts")
async def stats(cache: str, caller: Reader, parts: PartsOf) -> CacheStats:
    """What was recorded, and how calls were answered."""
    await parts.tally.flush()
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        tools = await tool_views(connection, found)
        counted = await store.rows(connection, queries.lookup_counts, {"cache": found["id"]})
        view = await parts.views.get(connection, found["view"])
        rows = await store.rows(connection, operations.compared, {"cache": found["id"]})
    compared = {row["tool"]: (row["compared"], row["diverged"]) for row in rows}
    lookups = by_tool(counted)
    return CacheStats(
        entries=found["entries"],
        tools=len(tools),
        keys=sum(tool.keys for tool in tools),
        conflicting_keys=sum(tool.conflicting_keys for tool in tools),
        errors=sum(tool.errors for tool in tools),
        lookups=[tool_stats(name, outcomes, view, compared.get(name)) for name, outcomes in lookups.items()],
    )


def by_tool(counted: list[Row]) -> dict[str, dict[str, int]]:
    """Counts of outcomes by tool."""
    lookups: dict[str, dict[str, int]] = {}
    for row in counted:
        lookups.setdefault(row["tool"], {})[row["outcome"]] = row["count"]
    return lookups


@router.get("/coverage", summary="What to record next")
async def coverage(cache: str, caller: Reader, parts: PartsOf, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Coverage:
    """The calls that missed most."""
    await parts.tally.flush()
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        rows = await store.rows(connection, queries.most_missed, {"cache": found["id"], "limit": limit})
        counted = by_tool(await store.rows(connection, queries.lookup_counts, {"cache": found["id"]}))
        different = {row["tool"]: row["calls"] for row in await store.rows(connection, operations.missed_tools, {"cache": found["id"]})}
    items = [CoverageItem(tool=row["tool"], arguments=row["arguments"], misses=row["count"]) for row in rows]
    return Coverage(items=items, tools=missed_tools(counted, different))
