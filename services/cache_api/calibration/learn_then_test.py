"""Learn-then-Test with a fixed sequence (Angelopoulos et al. 2021): how loose may a pool match at a bounded risk?

The risk is false hits ÷ replayed calls. The unit is the task, since the calls of one task fail together: its loss is the share of its
calls that would be answered wrongly, in [0, 1]. Levels are tested from the strictest to the loosest and the first whose 95 % upper bound
exceeds the target ends it, so the search costs nothing of the confidence. The bound is Hoeffding's and Bentkus' (Bates et al. 2021); with
nothing wrong it is 1 − 0.05^(1/n): 299 tasks for 1 %. No shrinkage enters: what was seen too rarely is not earned.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scipy.stats import binom

CONFIDENCE = 0.95
MAX_TASKS_REQUIRED = 1_000_000
_STEPS = 60
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class TaskCount:
    """One task's replayed calls, and how many of them would be answered wrongly."""

    calls: int
    false: int


def losses(counts: Iterable[TaskCount]) -> list[float]:
    """The loss of each task: its share of false answers, by its own calls or by those of an average task, whichever says more.

    The first alone would let one long task be wrong a hundred times at the price of one; a loss is never above 1.
    """
    found = list(counts)
    mean = sum(task.calls for task in found) / len(found) if found else 1.0
    return [min(1.0, task.false / min(task.calls, mean)) for task in found]


def upper_bound(loss: float, tasks: int) -> float:
    """95 % upper bound of the mean loss, from the sum of the losses of so many tasks; 1 without tasks."""
    if tasks == 0 or loss >= tasks:
        return 1.0
    low, high = loss / tasks, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _p_value(loss, tasks, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _p_value(loss: float, tasks: int, risk: float) -> float:
    """Of "the true risk is at least `risk`", for `loss / tasks` ≤ `risk`."""
    mean = loss / tasks
    hoeffding = math.exp(-tasks * _divergence(mean, risk))
    bentkus = math.e * float(binom.cdf(math.ceil(loss - _ROUNDING), tasks, risk))
    return min(hoeffding, bentkus)


def _divergence(p: float, q: float) -> float:
    """Kullback and Leibler's, of two coins."""
    if q >= 1.0:
        return 0.0 if p >= 1.0 else math.inf
    heads = p * math.log(p / q) if p > 0 else 0.0
    return heads + (1 - p) * math.log((1 - p) / (1 - q))


def tasks_required(loss: float, target: float) -> int | None:
    """How many tasks it takes until the bound reaches the target, if no more than `loss` goes wrong in them; None beyond a million."""
    low, high = max(1, math.ceil(loss)), max(1, math.ceil(loss))
    while upper_bound(loss, high) > target:
        low, high = high, high * 2
        if high > MAX_TASKS_REQUIRED:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(loss, middle) <= target else (middle + 1, high)
    return low


@dataclass(frozen=True, slots=True)
class Tested:
    """A level that was tested."""

    level: int
    loss: float
    tasks: int
    bound: float


def loosest(levels: Mapping[int, Iterable[TaskCount]], target: float) -> tuple[Tested | None, Tested]:
    """(the loosest level that holds, the first that was tested). `levels` are in the order of their looseness, at least one."""
    held: Tested | None = None
    first: Tested | None = None
    for level, counts in levels.items():
        found = losses(counts)
        tested = Tested(level, sum(found), len(found), upper_bound(sum(found), len(found)))
        first = first or tested
        if tested.bound > target:
            break
        held = tested
    assert first is not None, "at least one level"
    return held, first
