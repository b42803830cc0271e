"""How often a cache answered and how often wrongly, with an interval that knows that calls of one task fail together (contracts §7)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from cacherl.intervals import beta_interval
from cacherl.wire import Wire

__all__ = ["Rate", "TaskHits", "clustered_interval", "rate"]


class Rate(Wire):
    """Contracts §7: `calls` are all replayed calls, `false_hit_rate` is false hits ÷ hits; without hits it is 0 and its interval [0, 1]."""

    calls: int
    hits: int
    hit_rate: float
    false_hits: int
    false_hit_rate: float
    interval: tuple[float, float]
    """95 %, the task being the unit."""


@dataclass(slots=True)
class TaskHits:
    """One task's hits."""

    hits: int = 0
    false: int = 0


def rate(calls: int, tasks: Iterable[TaskHits]) -> Rate:
    """The rate over tasks; those without a hit may be left out."""
    hit = [task for task in tasks if task.hits]
    hits, false = sum(task.hits for task in hit), sum(task.false for task in hit)
    low, high = clustered_interval(hit)
    return Rate(
        calls=calls,
        hits=hits,
        hit_rate=hits / calls if calls else 0.0,
        false_hits=false,
        false_hit_rate=false / hits if hits else 0.0,
        interval=(low, high),
    )


def clustered_interval(tasks: Iterable[TaskHits]) -> tuple[float, float]:
    """95 % interval of false hits ÷ hits: Clopper and Pearson's on the effective number of hits (Korn and Graubard 1998).

    The design effect is that of the linearised ratio over tasks, never below 1. Few tasks with a false hit say little about how false hits
    cluster, so one more is added in which all hits failed together: without a false hit the tasks count, not the hits. (0, 1) without hits.
    """
    found = [task for task in tasks if task.hits]
    hits = sum(task.hits for task in found)
    if not hits:
        return 0.0, 1.0
    share = sum(task.false for task in found) / hits
    together, bad = hits / len(found), sum(task.false > 0 for task in found)
    estimated = _design_effect(found, hits, share) if 0 < share < 1 and len(found) > 1 else together
    effect = (bad * max(1.0, estimated) + together) / (bad + 1)
    return beta_interval(share, hits / max(1.0, effect))


def _design_effect(tasks: list[TaskHits], hits: int, share: float) -> float:
    spread = math.fsum((task.false - share * task.hits) ** 2 for task in tasks) * len(tasks) / (len(tasks) - 1)
    return spread / (hits * share * (1 - share))
