"""How loosely a match may be made: one path from strict to loose, which every pool walks as far as its evidence carries.

First fuzzy at ever smaller likeness; then, with fuzzy at its loosest, best effort at ever smaller cosine. Each level serves all that the
one before it serves, so the risk never falls along the path, and one fixed sequence controls all of it. Exact answers are served at every
level, so their errors count against the target as well: it bounds what is false in total.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.cache_api.calibration.learn_then_test import TaskCount
from services.cache_api.calibration.replay import Replayed

FUZZY = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
BEST_EFFORT = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Level:
    """One place on the path. Thresholds that are None are not reached yet: the tier serves nothing."""

    fuzzy: float
    best_effort: float | None = None

    def answer(self, call: Replayed) -> bool | None:
        """Whether what would be served is right; None: nothing would be."""
        if call.exact is not None:
            return call.exact
        if call.fuzzy is not None and (call.similarity or 0.0) >= self.fuzzy:
            return call.fuzzy
        if self.best_effort is not None and call.cosine is not None and call.cosine >= self.best_effort:
            return call.nearest
        return None

    def false(self, call: Replayed) -> bool:
        """Whether something false would be served, with all recordings or without those that are right."""
        if self.answer(call) is False or call.misled >= self.fuzzy:
            return True
        return self.best_effort is not None and call.astray >= self.best_effort


PATH = (*(Level(threshold) for threshold in FUZZY), *(Level(FUZZY[-1], threshold) for threshold in BEST_EFFORT))


def counts(level: Level, calls: Iterable[Replayed]) -> list[TaskCount]:
    """Calls and false answers of each task."""
    total: Counter[str] = Counter()
    false: Counter[str] = Counter()
    for call in calls:
        total[call.task] += 1
        false[call.task] += level.false(call)
    return [TaskCount(total[task], false[task]) for task in sorted(total)]


def answers(level: Level, calls: Sequence[Replayed]) -> list[bool]:
    """Right or wrong, of the calls that would be answered."""
    return [answer for call in calls if (answer := level.answer(call)) is not None]
