"""Calibrations: measure how wrong a cache is; the work runs in the background."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from cacherl.api.cache import Calibration, CalibrationCreate
from cacherl.api.common import Page
from services.cache_api import store
from services.cache_api.calibration import job
from services.cache_api.parts import PartsOf, Reader, Writer
from services.kit.idempotency import IdempotencyKey, once

router = APIRouter(prefix="/v1/caches/{cache}/calibrations", tags=["views"])


@router.get("", summary="Calibrations")
async def list_calibrations(
    cache: str, caller: Reader, parts: PartsOf, limit: Annotated[int, Query(ge=1, le=100)] = 1
) -> Page[Calibration]:
    """The newest first: by default that one alone, since each carries all of its evidence."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        return Page[Calibration](items=await job.newest(connection, found["id"], limit))


@router.post("", status_code=202, response_model=Calibration, summary="Measure how wrong the cache is")
async def create_calibration(
    cache: str, request: Request, body: CalibrationCreate, caller: Writer, parts: PartsOf, key: IdempotencyKey = None
) -> Response:
    """Replays the cache against itself under a new view, to which the cache switches: tools get the tiers that they have earned."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)

        async def act() -> tuple[int, dict[str, Any]]:
            return 202, (await job.add_calibration(connection, found["id"], body)).model_dump(mode="json")

        route = f"POST /v1/caches/{found['id']}/calibrations"
        answer = await once(connection, caller=caller, route=route, key=key, body=await request.body(), act=act)
    parts.worker.ring()
    return answer


@router.get("/{calibration}", summary="A calibration")
async def get_calibration(cache: str, calibration: str, caller: Reader, parts: PartsOf) -> Calibration:
    """Its evidence once it is done."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        return await job.calibration_model(connection, found["id"], calibration)
