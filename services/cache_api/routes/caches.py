"""Caches: create, find, list."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cacherl.api.cache import Cache, CacheCreate
from cacherl.api.common import Page
from cacherl.errors import ConflictError, InputError
from services.cache_api import store
from services.cache_api.embed import DIMENSION, refuse_dimension
from services.cache_api.event import schema_hash
from services.cache_api.learning import given_with, view_tools
from services.cache_api.parts import Parts, PartsOf, Reader, Writer
from services.cache_api.schemas import refuse_bad_tools
from services.cache_api.store import queries
from services.kit.idempotency import IdempotencyKey, once
from services.kit.identifiers import new_id
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor
from services.kit.postgres import AsyncRows

router = APIRouter(prefix="/v1/caches", tags=["caches"])


@router.post("", status_code=201, response_model=Cache, summary="Create a cache")
async def create_cache(request: Request, body: CacheCreate, caller: Writer, parts: PartsOf, key: IdempotencyKey = None) -> Response:
    """A cache is empty at revision 0 and reads through its first view, which knows the tools given here."""
    refuse_unknown_server(body, parts)
    refuse_bad_tools(body.tools)
    async with parts.database.tenant(caller.tenant) as connection:

        async def act() -> tuple[int, dict[str, Any]]:
            return 201, (await make_cache(connection, body, parts)).model_dump(mode="json")

        return await once(connection, caller=caller, route="POST /v1/caches", key=key, body=await request.body(), act=act)


def refuse_unknown_server(body: CacheCreate, parts: Parts) -> None:
    """Raises `no-such-live-server` for a live server that the configuration does not name."""
    server = body.settings.live_server
    if server is not None and server not in parts.settings.live_servers:
        errors = [{"pointer": "/settings/live_server", "detail": "not the name of a configured live server"}]
        raise InputError("The service's configuration names no such live server.", errors=errors, slug="no-such-live-server")


async def make_cache(connection: AsyncRows, body: CacheCreate, parts: Parts) -> Cache:
    """Inserts a cache with its first view. Errors: ConflictError `cache-exists`."""
    cache, view = new_id("cch"), new_id("viw")
    embedder = parts.embedder.name if body.settings.embedder is not None else None
    dimension = DIMENSION if embedder is not None else 0
    refuse_dimension(body.dimension, dimension)
    row = {
        "id": cache,
        "name": body.name,
        "view": view,
        "embedder": embedder,
        "dimension": dimension,
        "settings": body.settings.model_dump_json(),
    }
    if await store.row(connection, queries.create_cache, row) is None:
        raise ConflictError("There is a cache of this name already.", slug="cache-exists")
    specs = {spec.name: spec for spec in body.tools}
    given = given_with({}, specs.values())
    await store.create_view(connection, view, cache, given, view_tools(specs, given))
    await store.keep_tools(connection, cache, {(spec.name, schema_hash(spec)): spec for spec in specs.values()}, 0)
    return store.cache_model(await store.find_cache(connection, cache))


@router.get("", summary="List caches")
async def list_caches(caller: Reader, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Cache]:
    """By age, oldest first."""
    after = decode_cursor(cursor, 1)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.rows(connection, queries.list_caches, {"after": str(after[0]) if after else None, "limit": limit + 1})
    items = [store.cache_model(row) for row in found[:limit]]
    return Page[Cache](items=items, next_cursor=encode_cursor(items[-1].id) if len(found) > limit else None)


@router.get("/{cache}", summary="A cache")
async def get_cache(cache: str, caller: Reader, parts: PartsOf) -> Cache:
    """By id or name."""
    async with parts.database.tenant(caller.tenant) as connection:
        return store.cache_model(await store.find_cache(connection, cache))
