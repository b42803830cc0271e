"""A candidate: one result that was recorded for one call, with how often, and what speaks against it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from cacherl.api.cache import Select


class Candidate(NamedTuple):
    """Equal recordings, as one; `entry` is the oldest of them."""

    key: bytes
    digest: bytes
    """Of the normalised result."""
    is_error: bool
    fresh: bool
    """Within the tool's ttl."""
    schema_agrees: bool
    support: int
    entry: str
    source: str
    step: int
    recorded_at: datetime | None
    result: str
    """JSON as recorded."""
    arguments: str = "{}"
    """JSON as recorded; read of near calls alone."""
    distance: float = 1.0
    """Cosine distance to the asked call."""

    @property
    def undisputed(self) -> bool:
        """Whether neither age nor schema speak against it."""
        return self.fresh and self.schema_agrees

    @property
    def recorded_arguments(self) -> dict[str, Any]:
        """The arguments, read."""
        return from_json(self.arguments)


@dataclass(frozen=True, slots=True)
class Match:
    """The recordings of one call that may answer, and how near that call is."""

    candidates: tuple[Candidate, ...]
    similarity: float


def choose(candidates: Iterable[Candidate], select: Select, seed: bytes) -> Candidate:
    """One of several results for one call: the best supported, the oldest, or a draw by support. Ties fall by digest: never by chance."""
    ordered = sorted(candidates, key=lambda c: c.digest)
    if select == "majority":
        return max(ordered, key=lambda c: (c.support, c.digest))
    if select == "first":
        return min(ordered, key=lambda c: c.entry)
    total = sum(c.support for c in ordered)
    drawn = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest()) * total >> 64
    for candidate in ordered:
        drawn -= candidate.support
        if drawn < 0:
            return candidate
    raise AssertionError("a draw lies below the total")


def draw_seed(run_seed: int, task: str, episode: int, key: bytes, occurrence: int) -> bytes:
    """What a sample is drawn with: the siblings of a group see draws of their own, and the same episode again sees its own again."""
    return f"{run_seed}\0{task}\0{episode}\0{occurrence}\0".encode() + key
