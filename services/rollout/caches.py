"""The seam to the caches: what a rollout is pinned to, and the tool cache that it reads. `RemoteCaches` is the cache service over HTTP."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

from cacherl.api.rollout import RolloutCreate
from cacherl.client import CacheClient, RemoteToolCache
from cacherl.errors import ConflictError
from cacherl.tool_cache import CachePins, ToolCache
from services.kit.trace import outgoing_headers


class Caches(Protocol):
    """Whoever has the caches. `token` decides whose they are."""

    async def pins(self, token: str, request: RolloutCreate) -> CachePins:
        """What the request is pinned to, its nulls resolved. Errors: NotFoundError, ConflictError, ServiceError."""
        ...

    def open(self, token: str, rollout: str, request: RolloutCreate, pins: CachePins) -> AbstractAsyncContextManager[ToolCache]:
        """The pinned cache, for as long as a rollout plays."""
        ...


class RemoteCaches:
    """The cache service at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def pins(self, token: str, request: RolloutCreate) -> CachePins:
        """Asks the cache service with the caller's own token: what the caller may not read cannot be played with."""
        async with CacheClient(self._url, token, headers=outgoing_headers()) as client:
            cache = await client.get(request.cache)
            if request.view is not None:
                await client.view(cache.name, request.view)
        revision = cache.revision if request.revision is None else request.revision
        if revision > cache.revision:
            raise ConflictError(f"The cache {cache.name} is at revision {cache.revision}; there is no {revision}.", slug="no-such-revision")
        return CachePins(name=cache.name, revision=revision, view=request.view or cache.view, as_of=request.as_of or datetime.now(UTC))

    @asynccontextmanager
    async def open(self, token: str, rollout: str, request: RolloutCreate, pins: CachePins) -> AsyncIterator[ToolCache]:
        """Lookups over HTTP, each pinned."""
        async with CacheClient(self._url, token, headers=outgoing_headers()) as client:
            yield RemoteToolCache(
                client,
                pins,
                preset=request.preset,
                mode=request.mode,
                select=request.select,
                run=rollout,
                run_seed=request.seed,
                budget=request.budget,
            )
