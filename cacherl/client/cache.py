"""The cache API's client, and the tool cache that the agent loop reads through it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cached_property
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import BaseModel

from cacherl.api.cache import (
    Cache,
    CacheCreate,
    CacheStats,
    Calibration,
    CalibrationCreate,
    Coverage,
    EntryView,
    Ingested,
    LookupAnswer,
    LookupItem,
    LookupItemAnswer,
    LookupRequest,
    Mode,
    Select,
    ToolView,
    View,
    ViewCreate,
)
from cacherl.api.cache_live import Divergence
from cacherl.api.common import Page
from cacherl.client.batching import NOTHING_PINNED, BatchedLookups, LookupPins
from cacherl.client.cache_operations import CacheOperations
from cacherl.tier import Preset
from cacherl.tool_cache import CachePins
from cacherl.tool_spec import Annotations

Line = bytes | dict[str, Any] | BaseModel


class CacheClient(CacheOperations):
    """Speaks to the cache API: `async with CacheClient(url, key) as cache: …`."""

    async def create(self, cache: CacheCreate, *, key: str | None = None) -> Cache:
        """A new cache."""
        return await self.http.post("/v1/caches", cache, Cache, key=key)

    async def get(self, cache: str) -> Cache:
        """By id or name. Errors: `NotFoundError`."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}", Cache)

    async def delete(self, cache: str) -> None:
        """Deletes a cache with all that was recorded in it."""
        await self.http.delete(f"/v1/caches/{quote(cache, safe='')}")

    async def list(self, *, limit: int = 100, cursor: str | None = None) -> Page[Cache]:
        """The tenant's caches."""
        return await self.http.get("/v1/caches", Page[Cache], limit=limit, cursor=cursor)

    async def ingest(self, cache: str, lines: Iterable[Line], *, batch: str, atomic: bool = False) -> Ingested:
        """Records trajectories or single calls. The same batch again answers as it did."""
        return await self.http.stream_up(
            f"/v1/caches/{quote(cache, safe='')}/entries", _ndjson(lines), Ingested, batch=batch, atomic="true" if atomic else None
        )

    async def lookups(self, cache: str, request: LookupRequest) -> LookupAnswer:
        """Answers calls from the recordings. In a mode that may call live tools it is sent once: a call is never made twice by a retry."""
        once = request.mode != "replay"
        return await self.http.post(f"/v1/caches/{quote(cache, safe='')}/lookups", request, LookupAnswer, acts=False, once=once)

    async def lookup(self, cache: str, item: LookupItem, pins: LookupPins = NOTHING_PINNED) -> LookupAnswer:
        """Answers one item (`items` of the answer has one element); what is asked at the same time goes as one request."""
        return await self._batched.lookup(cache, item, pins)

    @cached_property
    def _batched(self) -> BatchedLookups:
        return BatchedLookups(self.lookups)

    async def close(self) -> None:
        """Aborts lookups under way and closes the connections."""
        await self._batched.close()
        await super().close()

    async def entries(self, cache: str, *, tool: str | None = None, limit: int = 100, cursor: str | None = None) -> Page[EntryView]:
        """Recorded calls."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/entries", Page[EntryView], tool=tool, limit=limit, cursor=cursor)

    async def tools(self, cache: str) -> Page[ToolView]:
        """The cache's tools with the annotations in force."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/tools", Page[ToolView])

    async def annotate(self, cache: str, tool: str, annotations: Annotations) -> View:
        """Makes a new view with these annotations of one tool."""
        content = annotations.model_dump_json(exclude_unset=True).encode()
        return await self.http.put(f"/v1/caches/{quote(cache, safe='')}/tools/{quote(tool, safe='')}", content, View, "application/json")

    async def create_view(self, cache: str, view: ViewCreate) -> View:
        """Makes a new view; a job builds its keys, then the cache switches to it."""
        return await self.http.post(f"/v1/caches/{quote(cache, safe='')}/views", view, View)

    async def view(self, cache: str, view: str) -> View:
        """How far a view is."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/views/{view}", View)

    async def calibrate(self, cache: str, request: CalibrationCreate) -> Calibration:
        """Starts a calibration."""
        return await self.http.post(f"/v1/caches/{quote(cache, safe='')}/calibrations", request, Calibration)

    async def calibration(self, cache: str, calibration: str) -> Calibration:
        """A calibration and, when it is done, its evidence."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/calibrations/{calibration}", Calibration)

    async def calibrations(self, cache: str, *, limit: int = 1) -> Page[Calibration]:
        """The newest calibrations, each with its evidence."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/calibrations", Page[Calibration], limit=limit)

    async def stats(self, cache: str) -> CacheStats:
        """Counts."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/stats", CacheStats)

    async def coverage(self, cache: str, *, limit: int = 100) -> Coverage:
        """What missed most: what to record next."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/coverage", Coverage, limit=limit)

    async def divergence(self, cache: str) -> Divergence:
        """How often what was served differed from what the live tools said, by tool and tier: mode `shadow` compares."""
        return await self.http.get(f"/v1/caches/{quote(cache, safe='')}/divergence", Divergence)


class RemoteToolCache:
    """`cacherl.tool_cache.ToolCache` over the cache API, every lookup pinned to the same revision, view and time."""

    def __init__(
        self,
        client: CacheClient,
        pins: CachePins,
        *,
        preset: Preset,
        mode: Mode = "replay",
        select: Select = "majority",
        run: str | None = None,
        run_seed: int = 0,
        budget: int | None = None,
    ) -> None:
        self.client = client
        self.pins = pins
        self._fixed: dict[str, Any] = {
            "preset": preset,
            "revision": pins.revision,
            "view": pins.view,
            "as_of": pins.as_of,
            "mode": mode,
            "select": select,
            "run": run,
            "run_seed": run_seed,
            "budget": budget,
        }

    async def lookup(self, items: Sequence[LookupItem]) -> list[LookupItemAnswer]:
        """One answer per item, in order."""
        answer = await self.client.lookups(self.pins.name, LookupRequest(items=list(items), **self._fixed))
        return answer.items


async def _ndjson(lines: Iterable[Line]) -> AsyncIterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        data = line if isinstance(line, bytes) else _dump(line)
        chunk += [data.rstrip(b"\n"), b"\n"]
        size += len(data)
        if size > 1 << 18:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)


def _dump(line: dict[str, Any] | BaseModel) -> bytes:
    return line.model_dump_json(by_alias=True).encode() if isinstance(line, BaseModel) else orjson.dumps(line)
