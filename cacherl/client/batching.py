"""Concurrent lookups as one request: `CacheClient.lookup` is asked item by item, what is asked at the same time goes together.

Items with equal pins share requests, in the order they were asked. Two requests are in flight at most for each set of pins, so the batches
grow with the load (up to `MAX_ITEMS`) and a caller that is alone waits for nobody. A refusal reaches only the caller whose item it is
about. Live modes act: each of their items is a request of its own, so that no call is ever made twice because of a neighbour.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from cacherl.api.cache import LookupAnswer, LookupItem, LookupRequest, Mode, Select
from cacherl.errors import ServiceError
from cacherl.gathering import ApartGatherer
from cacherl.tier import Preset
from cacherl.wire import Time, Wire

IN_FLIGHT = 2
KEPT_GROUPS = 64
"""Sets of pins whose gatherer is kept while nobody asks with them."""

Lookups = Callable[[str, LookupRequest], Awaitable[LookupAnswer]]


class LookupPins(Wire):
    """What a lookup is pinned to and how it is asked: `LookupRequest` without its items. Null pins are chosen by the service."""

    model_config = {**Wire.model_config, "frozen": True}

    preset: Preset | None = None
    revision: int | None = None
    view: str | None = None
    as_of: Time | None = None
    mode: Mode = "replay"
    select: Select = "majority"
    run: str | None = None
    run_seed: int = 0
    budget: int | None = None
    explain: bool = False

    def request(self, items: list[LookupItem]) -> LookupRequest:
        """The request for these items."""
        return LookupRequest(items=items, **self._fields)

    @property
    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}


NOTHING_PINNED = LookupPins()


class BatchedLookups:
    """Many callers' lookups over one client."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._groups: dict[tuple[str, LookupPins], _Pinned] = {}

    async def lookup(self, cache: str, item: LookupItem, pins: LookupPins) -> LookupAnswer:
        """The answer to one item: `items` has one element. Errors: those of this item."""
        if pins.mode != "replay":
            return await self._lookups(cache, pins.request([item]))
        return await self._group(cache, pins).lookup(item)

    def _group(self, cache: str, pins: LookupPins) -> "_Pinned":
        group = self._groups.get((cache, pins))
        if group is None:
            if len(self._groups) >= KEPT_GROUPS:
                self._groups = {key: kept for key, kept in self._groups.items() if not kept.idle}
            group = self._groups[cache, pins] = _Pinned(self._lookups, cache, pins)
        return group

    async def close(self) -> None:
        """Aborts what is in flight."""
        for group in self._groups.values():
            await group.close()
        self._groups = {}


class _Pinned(ApartGatherer[LookupItem, LookupAnswer]):
    """The lookups of one cache under one set of pins."""

    def __init__(self, lookups: Lookups, cache: str, pins: LookupPins) -> None:
        super().__init__(0, in_flight=IN_FLIGHT)
        self._lookups, self._cache, self._pins = lookups, cache, pins

    async def lookup(self, item: LookupItem) -> LookupAnswer:
        return await self._ask(item)

    async def _answers(self, asks: list[LookupItem]) -> list[LookupAnswer]:
        answer = await self._lookups(self._cache, self._pins.request(asks))
        if [len(item.calls) for item in asks] != [len(found.results) for found in answer.items]:
            raise ServiceError("the cache answered other calls than were asked")
        return [answer.model_copy(update={"items": [found]}) for found in answer.items]
