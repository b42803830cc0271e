"""The cache seam of the agent loop: turns in, answers with provenance out. The SDK's client and `cacherl.testing` both fit it."""

from collections.abc import Sequence
from typing import Protocol

from cacherl.api.cache import LookupItem, LookupItemAnswer
from cacherl.wire import Time, Wire


class CachePins(Wire):
    """What every lookup of a run is pinned to."""

    name: str
    revision: int
    view: str
    as_of: Time


class ToolCache(Protocol):
    """Answers the calls of many episodes' turns at once. Errors: `cacherl.errors.ServiceError` when it is away."""

    pins: CachePins

    async def lookup(self, items: Sequence[LookupItem]) -> list[LookupItemAnswer]:
        """One answer per item, in order; concurrent callers may be batched into one request."""
        ...
