"""Operating a cache: purge, delete, and the lists of revisions and views."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from cacherl.api.cache import EntryView, View
from cacherl.api.cache_operations import Purge, PurgeCreate, Revision
from cacherl.api.common import Page
from cacherl.errors import ForbiddenError, InputError, NotFoundError
from services.cache_api import jobs, store
from services.cache_api.direct import expired
from services.cache_api.parts import PartsOf, Reader, Writer
from services.cache_api.purge import delete_cache, operations, purge
from services.cache_api.routes import snapshots
from services.cache_api.routes.entries import entry_view
from services.kit.auth import Caller, Scope
from services.kit.idempotency import IdempotencyKey, once
from services.kit.paging import Cursor, Limit, decode_cursor, encode_cursor

router = APIRouter(prefix="/v1/caches/{cache}", tags=["operations"])
router.include_router(snapshots.router)
Erase = Annotated[bool, Query(description="Also remove the bytes; needs the scope `admin`.")]


@router.post("/purges", response_model=Purge, summary="Hide or erase recordings")
async def create_purge(
    cache: str, request: Request, body: PurgeCreate, caller: Writer, parts: PartsOf, key: IdempotencyKey = None
) -> Response:
    """By tool, source, age or entry. Later revisions do not see what matches, pins go on as they were; with `erase` the bytes go too."""
    refuse_without_admin(caller, erase=body.erase)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)

        async def act() -> tuple[int, dict[str, Any]]:
            return 200, (await purge(connection, found["id"], body, parts.settings.spool_dir)).model_dump(mode="json")

        route = f"POST /v1/caches/{found['id']}/purges"
        answer = await once(connection, caller=caller, route=route, key=key, body=await request.body(), act=act)
    if body.erase:
        await expired()
    return answer


@router.delete("/entries/{entry}", summary="Remove one entry")
async def delete_entry(cache: str, entry: str, caller: Writer, parts: PartsOf, erase: Erase = False) -> Purge:
    """Like a purge of this entry alone."""
    refuse_without_admin(caller, erase=erase)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        made = await purge(connection, found["id"], PurgeCreate(entries=[entry], erase=erase), parts.settings.spool_dir)
    if not made.matched:
        raise no_such_entry()
    if erase:
        await expired()
    return made


@router.get("/entries/{entry}", summary="An entry")
async def get_entry(cache: str, entry: str, caller: Reader, parts: PartsOf) -> EntryView:
    """One recorded call."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        row = await store.row(connection, operations.find_entry, {"cache": found["id"], "entry": entry})
    if row is None:
        raise no_such_entry()
    return entry_view(row)


@router.delete("", status_code=204, summary="Delete a cache")
async def remove_cache(cache: str, caller: Writer, parts: PartsOf) -> Response:
    """With everything in it: nothing of it answers afterwards. Needs the scope `admin` besides."""
    refuse_without_admin(caller, erase=True)
    async with parts.database.tenant(caller.tenant) as connection:
        await delete_cache(connection, (await store.find_cache(connection, cache))["id"])
    await expired()
    return Response(status_code=204)


@router.get("/revisions", summary="Revisions")
async def list_revisions(cache: str, caller: Reader, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[Revision]:
    """What each committed batch did, newest first."""
    before = int_of(decode_cursor(cursor, 1))
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        rows = await store.rows(connection, operations.revisions, {"cache": found["id"], "before": before, "limit": limit + 1})
    items = [revision_model(row) for row in rows[:limit]]
    return Page[Revision](items=items, next_cursor=encode_cursor(items[-1].revision) if len(rows) > limit else None)


@router.get("/views", summary="Views")
async def list_views(cache: str, caller: Reader, parts: PartsOf, limit: Limit = 100, cursor: Cursor = None) -> Page[View]:
    """Newest first, with those that are being built. The cache's present one stands on the cache."""
    before = decode_cursor(cursor, 1)
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        asked = {"cache": found["id"], "before": str(before[0]) if before else None, "limit": limit + 1}
        ids = [row["id"] for row in await store.rows(connection, operations.view_ids, asked)]
        items = [await jobs.view_model(connection, found["id"], view) for view in ids[:limit]]
    return Page[View](items=items, next_cursor=encode_cursor(items[-1].id) if len(ids) > limit else None)


def revision_model(row: store.Row) -> Revision:
    """A committed batch as it is listed."""
    did = row["answer"]
    counts = {"stored": did.get("stored", 0), "removed": did.get("removed", 0)}
    return Revision(revision=row["revision"], batch=row["batch"], kind=row["kind"], created_at=row["created_at"], **counts)


def refuse_without_admin(caller: Caller, *, erase: bool) -> None:
    """Raises ForbiddenError where bytes would be removed under a key that may not."""
    if erase and Scope.ADMIN not in caller.scopes:
        raise ForbiddenError("Removing bytes for good needs a key with the scope `admin` besides `cache:write`.")


def no_such_entry() -> NotFoundError:
    """There is no such entry, or not any more."""
    return NotFoundError("The cache has no such entry.", slug="no-such-entry")


def int_of(keys: tuple[Any, ...] | None) -> int | None:
    """The revision in a cursor. Errors: InputError `invalid-cursor`."""
    if keys is None:
        return None
    if not isinstance(keys[0], int) or isinstance(keys[0], bool) or not 0 <= keys[0] < 1 << 63:
        raise InputError("The cursor is not one that this list gave out.", slug="invalid-cursor")
    return keys[0]
