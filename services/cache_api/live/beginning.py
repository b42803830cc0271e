"""What a live request begins with, in one statement: its pins, which attempts at its episodes were recorded, which sessions are lost."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from cacherl.api.cache import LookupRequest
from cacherl.errors import ConflictError, InputError, NotFoundError
from services.cache_api import store
from services.cache_api.live.calling import server_of
from services.cache_api.live.turn import Begun, bases_of, placed, unplaced
from services.cache_api.live.writing import queries
from services.cache_api.parts import Parts
from services.cache_api.pins import pins_of

NOWHERE: Mapping[str, int] = MappingProxyType({})


async def begin(parts: Parts, tenant: str, cache: str, request: LookupRequest) -> tuple[Begun, list[str]]:
    """Where a live request stands, and the episodes of its items.

    Errors: those of `pins_of`, NotFoundError, ConflictError `no-live-server`, InputError where an item lacks what a live call needs.
    """
    try:
        bases = bases_of(request)
    except InputError:
        # A cache that has no live server says so first.
        server_of((await _begun(parts, tenant, cache, request, [])).pins, parts)
        raise
    begun = await _begun(parts, tenant, cache, request, unplaced(request, bases), placed(request, bases))
    server_of(begun.pins, parts)
    return begun, bases


async def _begun(
    parts: Parts, tenant: str, cache: str, request: LookupRequest, bases: Sequence[str], places: Mapping[str, int] = NOWHERE
) -> Begun:
    sessions = [item.session for item in request.items if item.session is not None]
    values = {"tenant": tenant, "cache": cache, "view": request.view, "sources": list(bases), "sessions": sessions}
    values |= {"placed": list(places), "steps": list(places.values())}
    # One statement that is a transaction of its own and sets its tenant itself.
    async with parts.database.maintenance() as connection:
        found = await store.row(connection, queries.live_start, values)
    if found is None:
        raise NotFoundError("There is no such cache.", slug="no-such-cache")
    if found["passed"]:
        # A request that was sent twice: what it asked was made already, and is not made again.
        raise ConflictError("Another call was recorded at this place of the episode.", slug="recorded-otherwise")
    wanted = request.view or found["view"]
    view = parts.views.kept(wanted, found["version"], found["covers_through"])
    if view is None:
        async with parts.database.tenant(tenant) as connection:
            view = await parts.views.get(connection, wanted)
    return Begun(pins_of(found, view, request), dict(zip(bases, found["attempts"], strict=True)), frozenset(found["lost"]))
