"""Lookups: the hot path. The body is validated once and the answer leaves as JSON without passing through models again."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response

from cacherl.api.cache import LookupAnswer, LookupRequest
from cacherl.errors import ForbiddenError
from services.cache_api import store
from services.cache_api.candidates import Candidates
from services.cache_api.live.fallthrough import FallthroughLookup
from services.cache_api.live.record import RecordLookup
from services.cache_api.live.shadow import ShadowLookup
from services.cache_api.lookup import Lookup, Pins
from services.cache_api.parts import Parts, PartsOf, Reader
from services.cache_api.pins import pins_of
from services.cache_api.short_way import answer_bytes
from services.cache_api.tally import counted
from services.kit.auth import Caller, Scope
from services.kit.postgres import AsyncRows

Live = RecordLookup | FallthroughLookup | ShadowLookup
LIVE: Mapping[str, type[Live]] = {"record": RecordLookup, "fallthrough": FallthroughLookup, "shadow": ShadowLookup}
router = APIRouter(prefix="/v1/caches/{cache}/lookups", tags=["lookups"])


@router.post("", response_model=LookupAnswer, summary="Answer calls from the recordings")
async def look_up(cache: str, body: LookupRequest, caller: Reader, parts: PartsOf) -> Response:
    """Pins that are null are chosen here and answered: the newest revision, the cache's view, now."""
    if body.mode in LIVE:
        lookup = await live(cache, body, caller, parts)
        items = await lookup.answer()
    else:
        lookup, items = await recorded(cache, body, caller, parts)
    parts.tally.count(caller.tenant, lookup.pins.cache, map(counted, lookup.asked))
    return Response(answer_bytes(lookup.pins, items), media_type="application/json")


async def recorded(cache: str, body: LookupRequest, caller: Caller, parts: Parts) -> tuple[Lookup, list[dict[str, Any]]]:
    """The long way, which knows every error; the next request goes the short one."""
    async with parts.database.tenant(caller.tenant) as connection:
        pins = await pinned(connection, cache, body, parts)
        candidates = Candidates(connection, parts.embedder, view=pins.view, revision=pins.revision)
        lookup = Lookup(pins, candidates, parts.redactor, body)
        items = await lookup.answer()
    parts.direct.learn(caller.tenant, cache, body, pins)
    return lookup, items


async def live(cache: str, body: LookupRequest, caller: Caller, parts: Parts) -> Live:
    """A mode that makes live calls needs the scope to write. No transaction is open while the live server works."""
    if Scope.CACHE_WRITE not in caller.scopes:
        raise ForbiddenError(f"Mode `{body.mode}` needs a key with the scope `cache:write`.")
    return await LIVE[body.mode].begin(parts, caller.tenant, cache, body)


async def pinned(connection: AsyncRows, cache: str, body: LookupRequest, parts: Parts) -> Pins:
    """What a request is pinned to.

    Errors: NotFoundError `no-such-cache`, `no-such-view`; ConflictError `view-of-another-cache`, `view-does-not-cover-revision`; GoneError
    `revision-erased`.
    """
    found = await store.find_cache(connection, cache)
    return pins_of(found, await parts.views.get(connection, body.view or found["view"]), body)
