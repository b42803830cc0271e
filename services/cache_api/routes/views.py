"""Views: make another way of reading a cache; the work runs in the background."""

from typing import Any

from fastapi import APIRouter, Request, Response

from cacherl.api.cache import View, ViewCreate
from cacherl.errors import NotFoundError
from services.cache_api import jobs, store
from services.cache_api.parts import PartsOf, Reader, Writer
from services.kit.idempotency import IdempotencyKey, once
from services.kit.postgres import AsyncRows

router = APIRouter(prefix="/v1/caches/{cache}", tags=["views"])


@router.post("/views", status_code=202, response_model=View, summary="Make a view with other annotations")
async def create_view(
    cache: str, request: Request, body: ViewCreate, caller: Writer, parts: PartsOf, key: IdempotencyKey = None
) -> Response:
    """A job builds its keys, then the cache switches to it; views that were pinned before answer as they did."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        await refuse_unknown_tools(connection, found["view"], set(body.annotations))

        async def act() -> tuple[int, dict[str, Any]]:
            return 202, (await jobs.add_view(connection, found["id"], body)).model_dump(mode="json")

        route = f"POST /v1/caches/{found['id']}/views"
        answer = await once(connection, caller=caller, route=route, key=key, body=await request.body(), act=act)
    parts.worker.ring()
    return answer


async def refuse_unknown_tools(connection: AsyncRows, view: str, names: set[str]) -> None:
    """Raises NotFoundError `no-such-tool` for a tool that the view does not know."""
    unknown = names - set((await store.load_view(connection, view)).tools)
    if unknown:
        raise NotFoundError(f"The cache knows no tool {sorted(unknown)[0]!r}.", slug="no-such-tool")


@router.get("/views/{view}", summary="A view")
async def get_view(cache: str, view: str, caller: Reader, parts: PartsOf) -> View:
    """What it covers and, while it is built, how far it is."""
    async with parts.database.tenant(caller.tenant) as connection:
        found = await store.find_cache(connection, cache)
        return await jobs.view_model(connection, found["id"], view)
