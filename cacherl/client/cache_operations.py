"""The part of the cache API's client that operates caches: purges, revisions, views, snapshots."""

from collections.abc import AsyncIterable, AsyncIterator
from urllib.parse import quote

from cacherl.api.cache import EntryView, View
from cacherl.api.cache_operations import Purge, PurgeCreate, Revision, SnapshotImported
from cacherl.api.common import Page
from cacherl.client.service import ServiceClient

SNAPSHOT = "application/zstd"
IMPORT_S = 3600.0
"""A large snapshot is keyed anew before the service answers."""


class CacheOperations(ServiceClient):
    """What `CacheClient` can do beside recording and looking up."""

    async def purge(self, cache: str, request: PurgeCreate, *, key: str | None = None) -> Purge:
        """Hides what matches from later revisions; with `erase` removes its bytes."""
        return await self.http.post(f"{_at(cache)}/purges", request, Purge, key=key)

    async def entry(self, cache: str, entry: str) -> EntryView:
        """One recorded call. Errors: `NotFoundError`."""
        return await self.http.get(f"{_at(cache)}/entries/{quote(entry, safe='')}", EntryView)

    async def revisions(self, cache: str, *, limit: int = 100, cursor: str | None = None) -> Page[Revision]:
        """What each committed batch did, newest first."""
        return await self.http.get(f"{_at(cache)}/revisions", Page[Revision], limit=limit, cursor=cursor)

    async def views(self, cache: str, *, limit: int = 100, cursor: str | None = None) -> Page[View]:
        """Its views, newest first, with those that are being built."""
        return await self.http.get(f"{_at(cache)}/views", Page[View], limit=limit, cursor=cursor)

    async def export_snapshot(self, cache: str, *, revision: int | None = None, view: str | None = None) -> AsyncIterator[bytes]:
        """The file of a snapshot as it comes; `cacherl.snapshot.SnapshotReader` says whether it is whole."""
        async for chunk in self.http.chunks(f"{_at(cache)}/snapshots", revision=revision, view=view):
            yield chunk

    async def import_snapshot(self, name: str, chunks: AsyncIterable[bytes]) -> SnapshotImported:
        """A new cache from a snapshot. Errors: `InputError` `broken-snapshot`, `ConflictError`."""
        return await self.http.stream_up(f"{_at(name)}/snapshots", chunks, SnapshotImported, content_type=SNAPSHOT, within_s=IMPORT_S)


def _at(cache: str) -> str:
    return f"/v1/caches/{quote(cache, safe='')}"
