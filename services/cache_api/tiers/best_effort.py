"""Best effort: the nearest recorded call of the same tool by embedding. `paper` always serves it, `robust` where calibration earned it."""

from collections.abc import Iterable

from cacherl.api.cache import ToolCalibration
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


def robust(candidates: Iterable[Candidate], earned: ToolCalibration | None, floor: float) -> Match | None:
    """The nearest recorded call, where it is near enough for what calibration earned and its fidelity is not below the floor."""
    match = nearest(candidates) if earned is not None else None
    if earned is None or match is None or match.similarity < (earned.threshold or 0.0):
        return None
    return match if earned.fidelity_at(match.similarity) >= floor else None
