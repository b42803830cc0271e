"""What a live request begins with, in one statement: its pins, and which attempts at its episodes were recorded."""

from collections.abc import Sequence

from cacherl.api.cache import LookupRequest
from cacherl.errors import NotFoundError
from services.cache_api import store
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.cache_api.parts import Parts
from services.cache_api.pins import pins_of


async def begin(parts: Parts, tenant: str, cache: str, request: LookupRequest, bases: Sequence[str]) -> tuple[Pins, dict[str, int]]:
    """Pins, and for each of `bases` how many attempts at it are known. Errors: those of `pins_of`, NotFoundError."""
    values = {"tenant": tenant, "cache": cache, "view": request.view, "sources": list(bases)}
    async with parts.database.maintenance() as connection:
        found = await store.row(connection, queries.live_start, values)
    if found is None:
        raise NotFoundError("There is no such cache.", slug="no-such-cache")
    wanted = request.view or found["view"]
    view = parts.views.kept(wanted, found["version"], found["covers_through"])
    if view is None:
        async with parts.database.tenant(tenant) as connection:
            view = await parts.views.get(connection, wanted)
    return pins_of(found, view, request), dict(zip(bases, found["attempts"], strict=True))
