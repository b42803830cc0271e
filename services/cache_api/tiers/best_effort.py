"""Best effort: the nearest recorded call of the same tool by embedding. `paper` always serves it, `robust` where calibration earned it."""

from collections.abc import Iterable

from services.cache_api.tiers.candidate import Candidate, Match


def nearest(candidates: Iterable[Candidate]) -> Match | None:
    """The recordings of the nearest call; its similarity is the cosine, at least 0."""
    found = list(candidates)
    if not found:
        return None
    calls: dict[bytes, list[Candidate]] = {}
    for candidate in found:
        calls.setdefault(candidate.key, []).append(candidate)
    best = min(calls, key=lambda key: (min(c.distance for c in calls[key]), -sum(c.support for c in calls[key]), key))
    distance = min(c.distance for c in calls[best])
    return Match(tuple(calls[best]), min(1.0, max(0.0, 1.0 - distance)))
