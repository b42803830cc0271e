"""The shapes of operating a cache: purges, revisions, snapshots (contracts §3)."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from cacherl.api.cache import Cache
from cacherl.wire import Time, Wire

MAX_PURGED_ENTRIES = 10_000


class PurgeCreate(Wire):
    """What to hide: entries that match every filter that is given; at least one is."""

    tool: str | None = Field(default=None, min_length=1, max_length=256)
    source: str | None = Field(default=None, min_length=1)
    recorded_before: Time | None = None
    """Older recordings; those that carry no time of their own count from when they were ingested."""
    entries: list[str] | None = Field(default=None, min_length=1, max_length=MAX_PURGED_ENTRIES)
    erase: bool = False
    """Also remove the bytes, of what was hidden before too; needs the scope `admin`. Pins that saw them answer 410 from then on."""
    dry_run: bool = False
    """Count what matches and change nothing."""

    @model_validator(mode="after")
    def _filtered(self) -> Self:
        if self.tool is None and self.source is None and self.recorded_before is None and self.entries is None:
            raise PydanticCustomError("no_filter", "give at least one of tool, source, recorded_before and entries")
        return self


class Purge(Wire):
    """What a purge did."""

    id: str | None
    """Null for a dry run, and where nothing matched."""
    revision: int
    """The first revision that does not see what was removed; where nothing matched, the present one."""
    matched: int
    removed: int
    """Of the matching entries, those that were visible until now."""
    erased: int
    links_dropped: int = 0
    """Histories that only erased entries had, removed with them."""
    links_blanked: int = 0
    """Erased calls that lie in the histories of recordings that stay: their content is gone, and views that are built from now on
    treat them as calls that nobody answered."""


class Revision(Wire):
    """One committed change of a cache."""

    revision: int
    batch: str
    kind: Literal["record", "purge", "erase", "snapshot"]
    stored: int
    removed: int
    created_at: Time


class SnapshotImported(Wire):
    """A cache that was made from a snapshot."""

    cache: Cache
    snapshot: str
    """The manifest's hash: two imports of one file have the same."""
    entries: int
    links: int
