"""Lookups: the hot path. The body is validated once and the answer leaves as JSON without passing through models again."""

from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Response

from cacherl.api.cache import CacheSettings, LookupAnswer, LookupRequest
from cacherl.errors import ConflictError, ForbiddenError
from services.cache_api import store
from services.cache_api.candidates import Candidates
from services.cache_api.live.record import RecordLookup
from services.cache_api.lookup import Lookup, Pins
from services.cache_api.parts import Parts, PartsOf, Reader
from services.cache_api.purge import refuse_erased
from services.kit.auth import Caller, Scope
from services.kit.postgres import AsyncRows

router = APIRouter(prefix="/v1/caches/{cache}/lookups", tags=["lookups"])


@router.post("", response_model=LookupAnswer, summary="Answer calls from the recordings")
async def look_up(cache: str, body: LookupRequest, caller: Reader, parts: PartsOf) -> Response:
    """Pins that are null are chosen here and answered: the newest revision, the cache's view, now."""
    if body.mode == "record":
        pins, lookup, items = await record(cache, body, caller, parts)
    else:
        async with parts.database.tenant(caller.tenant) as connection:
            pins = await pinned(connection, cache, body, parts)
            candidates = Candidates(connection, parts.embedder, view=pins.view, revision=pins.revision)
            lookup = Lookup(pins, candidates, parts.redactor, body)
            items = await lookup.answer()
    parts.tally.count(caller.tenant, pins.cache, lookup.asked)
    answer = {"revision": pins.revision, "view": pins.view.id, "as_of": pins.as_of, "items": items}
    return Response(orjson.dumps(answer, option=orjson.OPT_UTC_Z), media_type="application/json")


async def record(cache: str, body: LookupRequest, caller: Caller, parts: Parts) -> tuple[Pins, RecordLookup, list[dict[str, Any]]]:
    """Mode `record` writes, so it needs the scope to write. No transaction is open while the live server works."""
    if Scope.CACHE_WRITE not in caller.scopes:
        raise ForbiddenError("Mode `record` needs a key with the scope `cache:write`.")
    async with parts.database.tenant(caller.tenant) as connection:
        pins = await pinned(connection, cache, body, parts)
        lookup = RecordLookup(parts, caller.tenant, pins, body)
        await lookup.prepare(connection)
    return pins, lookup, await lookup.answer()


async def pinned(connection: AsyncRows, cache: str, body: LookupRequest, parts: Parts) -> Pins:
    """What a request is pinned to.

    Errors: NotFoundError `no-such-cache`, `no-such-view`; ConflictError `view-of-another-cache`, `view-does-not-cover-revision`; GoneError
    `revision-erased`.
    """
    found = await store.find_cache(connection, cache)
    view = await parts.views.get(connection, body.view or found["view"])
    if view.cache != found["id"]:
        raise ConflictError("This view belongs to another cache.", slug="view-of-another-cache")
    if view.covers_through is None and view.id != found["view"]:
        raise ConflictError("This view is still being built.", slug="view-does-not-cover-revision")
    revision = body.revision
    if revision is None:
        revision = found["revision"] if view.covers_through is None else view.covers_through
    view.refuse_outside(revision, found["revision"])
    refuse_erased(found["erased"], revision)
    settings = CacheSettings.model_validate(found["settings"])
    return Pins(found["id"], settings, revision, view, body.as_of or datetime.now(UTC), body.preset or settings.preset)
