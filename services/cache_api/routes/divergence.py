"""What mode `shadow` found."""

from fastapi import APIRouter

from cacherl.api.cache_live import Divergence, DivergenceExample, ToolDivergence
from cacherl.intervals import clopper_pearson
from services.cache_api import store
from services.cache_api.live.writing import queries
from services.cache_api.parts import PartsOf, Reader
from services.cache_api.store import Row

router = APIRouter(prefix="/v1/caches/{cache}/divergence", tags=["caches"])


@router.get("", summary="How often served answers differed from live ones")
async def get_divergence(cache: str, caller: Reader, parts: PartsOf) -> Divergence:
    """By tool and tier; those that differ most often first."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        counted = await store.rows(connection, queries.divergence, {"cache": found["id"]})
    return Divergence(items=[_of_tool(row) for row in counted])


def _of_tool(row: Row) -> ToolDivergence:
    compared, diverged = row["compared"], row["diverged"]
    return ToolDivergence(
        tool=row["tool"],
        tier=row["tier"],
        compared=compared,
        diverged=diverged,
        failed=row["failed"],
        rate=diverged / compared if compared else None,
        interval=clopper_pearson(diverged, compared),
        example=DivergenceExample.model_validate(row["example"]) if row["example"] is not None else None,
    )
