"""Snapshots over HTTP, below `/v1/caches/{cache}`: a cache as a file, a file as a new cache."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse

from cacherl.api.cache import LookupRequest
from cacherl.api.cache_operations import SnapshotImported
from services.cache_api.parts import PartsOf, Reader, Writer
from services.cache_api.routes.lookups import pinned
from services.cache_api.settings import GIBIBYTE
from services.cache_api.snapshots import exported, imported

router = APIRouter(prefix="/snapshots")
MEDIA_TYPE = "application/zstd"
FILE = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}, "description": "The file (cacherl.snapshot/1)"},
    410: {"description": "Something of this revision was erased"},
}
NewName = Annotated[
    str, Path(alias="cache", min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="The new cache's name.")
]


@router.get("", response_class=StreamingResponse, responses=ANSWER, summary="Export a cache as one file")
async def export_snapshot(
    cache: str,
    caller: Reader,
    parts: PartsOf,
    revision: Annotated[int | None, Query(ge=0, lt=1 << 63, description="Default: the newest.")] = None,
    view: Annotated[str | None, Query(max_length=64, description="Default: the cache's present one.")] = None,
) -> StreamingResponse:
    """All that answers at one revision under one view. A file without its last line is not whole: something was erased on the way."""
    wanted = LookupRequest.model_construct(revision=revision, view=view)
    async with parts.database.tenant(caller.tenant) as connection:
        pins = await pinned(connection, cache, wanted, parts)
    return StreamingResponse(exported(parts, caller.tenant, pins), media_type=MEDIA_TYPE)


@router.post("", status_code=201, summary="Make a cache from a file", openapi_extra=FILE, max_body_size=1024 * GIBIBYTE)
async def import_snapshot(cache: NewName, request: Request, caller: Writer, parts: PartsOf) -> SnapshotImported:
    """Nothing is there until the whole file was read and its hashes were right; then a cache that answers as the exported one."""
    return await imported(parts, caller.tenant, cache, request.stream())
