"""Calibration: how wrong the cache is, measured against itself (method §3.5). Pure: recordings in, evidence out.

Leave-one-task-out replay: each recorded call is looked up without the recordings of its own task, and what would be served is compared
with what was recorded. Where a scenario belongs to one task alone, that leaves nothing: then the call's own source is left out, and the
result says `within_task`. Fuzzy is earned per tool: going from the strictest threshold to looser ones, as long as the 95 % upper bound of
the share of tasks with a false hit stays at or below the target (a fixed sequence, so the error of the search is controlled); the task is
the unit, and no shrinkage enters. A call counts as false too where it would be once the recordings that are right were gone: a policy
asks what nobody asked before, and must not get an old answer to a new question. Fidelity is a probability for use, not a guarantee: right
hits with a Beta prior from all tools' hits of the tier.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from cacherl.api.cache import CurvePoint, ToolCalibration
from cacherl.tool_call import canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import likeness, texts
from services.cache_api.candidates import NEAREST
from services.cache_api.embed import Embedder, call_text

GRID = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
"""Thresholds, strictest first."""
CONFIDENCE = 0.95
PRIOR_HITS = 10.0
"""How many hits the pool's share of right ones counts for."""
MIN_TASKS_TO_GUESS = 10
MAX_CALLS = 2_000
"""Calls of a tool that are replayed; of more, whole tasks are drawn by hash."""
MAX_TASKS_REQUIRED = 1_000_000


@dataclass(frozen=True)
class Recorded:
    """An entry as a view sees it."""

    key: bytes
    identity: bytes
    scoped_state: bytes | None
    scenario: str
    source: str
    task: str
    digest: bytes
    transient: bool
    arguments: dict[str, Any]
    history: bytes | None = None

    @cached_property
    def full_key(self) -> tuple[bytes, bytes | None, str]:
        """What an exact match agrees in."""
        return self.key, self.scoped_state, self.scenario

    @cached_property
    def neighbourhood(self) -> tuple[bytes, bytes | None, str]:
        """What any match agrees in."""
        return self.identity, self.scoped_state, self.scenario


@dataclass(slots=True)
class Replayed:
    """What would be served for one call."""

    task: str
    within_task: bool
    exact: bool | None = None
    """Whether the exact answer is right; None: there is none."""
    similarity: float | None = None
    """Of the most alike call, where no exact answer is."""
    fuzzy: bool | None = None
    misled: float = 0.0
    """Similarity of the most alike call that had another result: what would be served if nothing right had been recorded."""
    nearest: bool | None = None

    def false_at(self, threshold: float) -> bool:
        """Whether fuzzy would serve something false at a threshold, with all recordings or without those that are right."""
        return (self.fuzzy is False and (self.similarity or 0) >= threshold) or self.misled >= threshold


@dataclass
class ToolReplay:
    """All replayed calls of one tool."""

    tool: str
    calls: list[Replayed]


class Replayer:
    """Replays the calls of one tool against one another."""

    def __init__(self, tool: str, rows: Sequence[Recorded], spec: ToolSpec | None, tasks_of: Mapping[str, int], embedder: Embedder) -> None:
        self.tool, self.spec, self.tasks_of, self.embedder = tool, spec, tasks_of, embedder
        self.rows = [row for row in rows if not row.transient]
        self.exact: dict[Any, list[Recorded]] = defaultdict(list)
        self.near: dict[Any, dict[bytes, list[Recorded]]] = defaultdict(lambda: defaultdict(list))
        for row in self.rows:
            if row.scoped_state is not None:
                self.exact[row.full_key].append(row)
                self.near[row.neighbourhood][row.key].append(row)
        self._vectors: dict[Any, tuple[list[bytes], NDArray[np.float32]]] = {}
        self._texts: dict[bytes, dict[str, str]] = {}

    def replay(self) -> ToolReplay:
        """Every call, or those of some tasks where there are very many."""
        return ToolReplay(self.tool, [self._one(row) for row in drawn(self.rows)])

    def _one(self, row: Recorded) -> Replayed:
        within = self.tasks_of.get(row.scenario, 1) <= 1
        found = Replayed(row.task, within)
        if row.scoped_state is None:
            return found
        others = [other for other in self.exact[row.full_key] if not _leaves_with(row, other, within)]
        if others:
            found.exact = majority(others) == row.digest
        calls = {
            key: kept
            for key, recorded in self.near[row.neighbourhood].items()
            if key != row.key and (kept := [other for other in recorded if not _leaves_with(row, other, within)])
        }
        if calls:
            self._near(row, calls, found)
        return found

    def _near(self, row: Recorded, calls: dict[bytes, list[Recorded]], found: Replayed) -> None:
        keys, vectors_ND = self._neighbourhood(row)
        place = {key: number for number, key in enumerate(keys)}
        cosines_N = vectors_ND @ vectors_ND[place[row.key]]
        ordered = sorted(calls, key=lambda key: (-cosines_N[place[key]], key))[:NEAREST]
        asked = self._text(row)
        alike = {key: likeness(asked, self._text(calls[key][0])) for key in ordered}
        right = {key: majority(calls[key]) == row.digest for key in ordered}
        found.misled = max((alike[key] for key in ordered if not right[key]), default=0.0)
        if found.exact is None:
            best = max(ordered, key=lambda key: (alike[key], len(calls[key]), key))
            found.similarity, found.fuzzy, found.nearest = alike[best], right[best], right[ordered[0]]

    def _neighbourhood(self, row: Recorded) -> tuple[list[bytes], NDArray[np.float32]]:
        place = row.neighbourhood
        if place not in self._vectors:
            calls = self.near[place]
            told = [call_text(self.tool, canonical_arguments(recorded[0].arguments, self.spec)) for recorded in calls.values()]
            self._vectors[place] = (list(calls), self.embedder.vectors(told))
        return self._vectors[place]

    def _text(self, row: Recorded) -> dict[str, str]:
        if row.key not in self._texts:
            self._texts[row.key] = texts(canonical_arguments(row.arguments, self.spec), self.spec)
        return self._texts[row.key]


def _leaves_with(row: Recorded, other: Recorded, within: bool) -> bool:
    """Whether `other` is left out when `row` is replayed."""
    return other.source == row.source if within else other.task == row.task


def majority(rows: Iterable[Recorded]) -> bytes:
    """The best supported result, as a lookup chooses it."""
    counted = Counter(row.digest for row in rows)
    return max(counted, key=lambda digest: (counted[digest], digest))


def drawn(rows: Sequence[Recorded]) -> list[Recorded]:
    """Whole tasks in the order of their hashes, up to `MAX_CALLS` calls."""
    by_task: dict[str, list[Recorded]] = defaultdict(list)
    for row in rows:
        by_task[row.task].append(row)
    kept: list[Recorded] = []
    for task in sorted(by_task, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if kept and len(kept) + len(by_task[task]) > MAX_CALLS:
            break
        kept += by_task[task]
    return kept


def calibrated(replays: Sequence[ToolReplay], *, target_false: float, floor: float) -> list[ToolCalibration]:
    """What each tool has earned. `floor`: the share of right hits below which nothing is earned, whatever the risk."""
    pool = {
        "exact": pooled([call.exact for replay in replays for call in replay.calls]),
        "fuzzy": pooled([call.fuzzy for replay in replays for call in replay.calls if (call.similarity or 0) >= GRID[-1]]),
        "best_effort": pooled([call.nearest for replay in replays for call in replay.calls]),
    }
    found: list[ToolCalibration] = []
    for replay in replays:
        if any(call.exact is not None for call in replay.calls):
            found.append(_exact(replay, pool["exact"]))
        fuzzy = _fuzzy(replay, pool["fuzzy"], target_false, floor)
        found += [fuzzy, _best_effort(replay, pool["best_effort"], fuzzy, floor)]
    return found


def pooled(answers: Iterable[bool | None]) -> float:
    """Share of right hits over all tools, with one right and one wrong added."""
    hits = [answer for answer in answers if answer is not None]
    return (sum(hits) + 1) / (len(hits) + 2)


def shrunk(hits: Sequence[bool], pool: float) -> float:
    """Share of right hits of one tool, drawn to its pool where there are few."""
    return (sum(hits) + PRIOR_HITS * pool) / (len(hits) + PRIOR_HITS)


def upper_bound(bad: int, tasks: int) -> float:
    """One-sided 95 % upper bound (Clopper-Pearson) of the share of tasks with a false hit; 1 without tasks."""
    return float(betaincinv(bad + 1, tasks - bad, CONFIDENCE)) if tasks > bad else 1.0


def tasks_required(bad: int, target: float) -> int | None:
    """How many tasks it takes until the bound reaches the target, if no more than `bad` of them have a false hit."""
    low, high = bad + 1, bad + 1
    while upper_bound(bad, high) > target:
        low, high = high, high * 2
        if high > MAX_TASKS_REQUIRED:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(bad, middle) <= target else (middle + 1, high)
    return low


def _exact(replay: ToolReplay, pool: float) -> ToolCalibration:
    hits = [call.exact for call in replay.calls if call.exact is not None]
    return _evidence(replay, "exact", hits, shrunk(hits, pool), earned=True, threshold=None, required=None)


def _fuzzy(replay: ToolReplay, pool: float, target: float, floor: float) -> ToolCalibration:
    tasks = len({call.task for call in replay.calls})
    threshold: float | None = None
    for candidate in GRID:
        bad = {call.task for call in replay.calls if call.false_at(candidate)}
        if upper_bound(len(bad), tasks) > target:
            break
        threshold = candidate
    hits = _hits(replay, threshold if threshold is not None else GRID[-1])
    fidelity = shrunk(hits, pool)
    earned = threshold is not None and bool(hits) and fidelity >= floor
    compared = any(call.fuzzy is not None for call in replay.calls)
    strict = {call.task for call in replay.calls if call.false_at(GRID[0])}
    required = tasks_required(len(strict), target) if compared and threshold is None else None
    return _evidence(replay, "fuzzy", hits, fidelity, earned=earned, threshold=threshold if earned else None, required=required)


def _hits(replay: ToolReplay, threshold: float) -> list[bool]:
    return [call.fuzzy for call in replay.calls if call.fuzzy is not None and (call.similarity or 0) >= threshold]


def _best_effort(replay: ToolReplay, pool: float, fuzzy: ToolCalibration, floor: float) -> ToolCalibration:
    """Over the calls that neither an exact answer nor the earned fuzzy tier would have served."""
    served = fuzzy.threshold if fuzzy.threshold is not None else float("inf")
    left = [call for call in replay.calls if call.nearest is not None and (call.similarity or 0) < served]
    hits = [call.nearest for call in left if call.nearest is not None]
    fidelity = shrunk(hits, pool)
    earned = len({call.task for call in left}) >= MIN_TASKS_TO_GUESS and fidelity >= floor
    return _evidence(replay, "best_effort", hits, fidelity, earned=earned, threshold=None, required=None)


def _evidence(
    replay: ToolReplay, tier: Any, hits: Sequence[bool], fidelity: float, *, earned: bool, threshold: float | None, required: int | None
) -> ToolCalibration:
    return ToolCalibration(
        tool=replay.tool,
        tier=tier,
        calls=len(replay.calls),
        tasks=len({call.task for call in replay.calls}),
        false_hits=len(hits) - sum(hits),
        fidelity=round(fidelity, 6),
        earned=earned,
        threshold=threshold,
        n_required=required,
        within_task=any(call.within_task for call in replay.calls),
    )


def curve(replays: Sequence[ToolReplay]) -> list[CurvePoint]:
    """Over all tools and thresholds: share of calls that exact or fuzzy would serve, and of calls that it would serve wrongly."""
    calls = [call for replay in replays for call in replay.calls]
    points: list[CurvePoint] = []
    for threshold in GRID if calls else ():
        served = [call.exact for call in calls if call.exact is not None]
        served += [call.fuzzy for call in calls if call.fuzzy is not None and (call.similarity or 0) >= threshold]
        wrong = len(served) - sum(served)
        points.append(CurvePoint(threshold=threshold, coverage=len(served) / len(calls), false_hit_rate=wrong / len(calls)))
    return points


def noise_pairs(rows: Iterable[Recorded]) -> tuple[int, int]:
    """(differing, compared) of neighbouring runs that had the same history and made the same call: no error below it is the cache's."""
    runs: dict[Any, list[Recorded]] = defaultdict(list)
    for row in rows:
        if not row.transient:
            runs[row.history, row.scenario, row.key].append(row)
    pairs = [(a, b) for found in runs.values() for a, b in pairwise(found) if a.source != b.source]
    return sum(a.digest != b.digest for a, b in pairs), len(pairs)
