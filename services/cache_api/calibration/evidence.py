"""From replays to what a calibration says: pools with their thresholds, tools with their fidelity, the curves."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cacherl.api.cache import ToolCalibration
from cacherl.api.cache_calibration import Calibrated, CurvePoint, FidelityStep, PoolCalibration
from services.cache_api.calibration.draw import draw_order
from services.cache_api.calibration.fidelity import DIGITS, Hit, pooled, shrunk, steps
from services.cache_api.calibration.learn_then_test import Tested, loosest, losses, tasks_required, upper_bound
from services.cache_api.calibration.levels import BEST_EFFORT, FUZZY, PATH, Level, answers, counts
from services.cache_api.calibration.replay import Replayed, ToolReplay

EDGES: dict[Calibrated, tuple[float, ...]] = {"fuzzy": tuple(reversed(FUZZY)), "best_effort": tuple(reversed(BEST_EFFORT))}


@dataclass(frozen=True)
class Evidence:
    """What was found."""

    tools: list[ToolCalibration]
    pools: list[PoolCalibration]
    curve: list[CurvePoint]
    best_effort_curve: list[CurvePoint]


def evidence(replays: Sequence[ToolReplay], *, target_false: float, floor: float) -> Evidence:
    """What each pool has earned at the target, and each tool. `floor`: the fidelity below which a tool guesses nothing."""
    together: dict[str, list[ToolReplay]] = defaultdict(list)
    for replay in replays:
        together[replay.pool].append(replay)
    pools: list[PoolCalibration] = []
    tools: list[ToolCalibration] = []
    for name in sorted(together):
        fuzzy, best_effort = _pool(name, together[name], target_false)
        pools += [fuzzy, best_effort]
        tools += _tools(together[name], fuzzy, best_effort, floor)
    calls = [call for replay in replays for call in replay.calls]
    return Evidence(sorted(tools, key=lambda found: found.tool), pools, curve(calls, PATH[: len(FUZZY)]), curve(calls, PATH[len(FUZZY) :]))


def whole_tasks(replays: Iterable[ToolReplay]) -> list[Replayed]:
    """The calls of the tasks that were drawn for every tool of a pool: elsewhere a task's loss would be that of a part of it."""
    found = list(replays)
    cuts = [replay.cut for replay in found if replay.cut is not None]
    calls = [call for replay in found for call in replay.calls]
    return [call for call in calls if draw_order(call.task) <= min(cuts)] if cuts else calls


def _pool(name: str, replays: Sequence[ToolReplay], target: float) -> tuple[PoolCalibration, PoolCalibration]:
    calls = whole_tasks(replays)
    held, first = loosest({number: counts(level, calls) for number, level in enumerate(PATH)}, target)
    reached = PATH[held.level] if held is not None else None
    fuzzy = _earned(
        name, "fuzzy", replays, calls, held or first, reached.fuzzy if reached else None, any(c.fuzzy is not None for c in calls), target
    )
    guess = reached is not None and reached.best_effort is not None
    next_level = held if held is not None and guess else _tested(len(FUZZY), calls)
    compared = any(call.fuzzy is not None and (call.similarity or 0.0) < FUZZY[-1] for call in calls)
    threshold = reached.best_effort if reached is not None else None
    return fuzzy, _earned(name, "best_effort", replays, calls, next_level, threshold, compared, target)


def _tested(level: int, calls: Sequence[Replayed]) -> Tested:
    found = losses(counts(PATH[level], calls))
    return Tested(level, sum(found), len(found), upper_bound(sum(found), len(found)))


def _earned(
    name: str,
    tier: Calibrated,
    replays: Sequence[ToolReplay],
    calls: Sequence[Replayed],
    tested: Tested,
    threshold: float | None,
    compared: bool,
    target: float,
) -> PoolCalibration:
    assert tier != "exact"
    earned = threshold is not None and compared
    return PoolCalibration(
        pool=name,
        tier=tier,
        tools=len(replays),
        calls=len(calls),
        tasks=tested.tasks,
        false_hits=sum(task.false for task in counts(PATH[tested.level], calls)),
        bound=round(tested.bound, DIGITS),
        earned=earned,
        threshold=threshold if earned else None,
        n_required=tasks_required(tested.loss, target) if compared and threshold is None else None,
        within_task=any(call.within_task for call in calls),
    )


def _tools(replays: Sequence[ToolReplay], fuzzy: PoolCalibration, best_effort: PoolCalibration, floor: float) -> list[ToolCalibration]:
    served = fuzzy.threshold if fuzzy.threshold is not None else float("inf")
    exact = _Tier("exact", _exact_hits, replays, None, floor)
    alike = _Tier("fuzzy", _fuzzy_hits, replays, fuzzy, floor)
    nearest = _Tier("best_effort", lambda calls: _nearest_hits(calls, served), replays, best_effort, floor)
    found: list[ToolCalibration] = []
    for replay in replays:
        if any(call.exact is not None for call in replay.calls):
            found.append(exact.of(replay))
        found += [alike.of(replay), nearest.of(replay)]
    return found


def _exact_hits(calls: Iterable[Replayed]) -> list[Hit]:
    return [Hit(1.0, call.exact) for call in calls if call.exact is not None]


def _fuzzy_hits(calls: Iterable[Replayed]) -> list[Hit]:
    return [Hit(call.similarity or 0.0, call.fuzzy) for call in calls if call.fuzzy is not None and (call.similarity or 0.0) >= FUZZY[-1]]


def _nearest_hits(calls: Iterable[Replayed], served: float) -> list[Hit]:
    """Of the calls that neither an exact answer nor fuzzy would have served."""
    return [Hit(call.cosine or 0.0, call.nearest) for call in calls if call.nearest is not None and (call.similarity or 0.0) < served]


class _Tier:
    """One tier of one pool: its tools' fidelities, each drawn to the pool's."""

    def __init__(
        self,
        tier: Calibrated,
        hits: Callable[[Iterable[Replayed]], list[Hit]],
        replays: Sequence[ToolReplay],
        earned: PoolCalibration | None,
        floor: float,
    ) -> None:
        self.tier: Calibrated = tier
        self.hits, self.floor = hits, floor
        self.threshold, self.required = (earned.threshold, earned.n_required) if earned is not None else (None, None)
        self.pool = hits([call for replay in replays for call in replay.calls])

    def of(self, replay: ToolReplay) -> ToolCalibration:
        """What a tool has earned: its pool's threshold, or the similarity above it from which its own hits are believed enough."""
        hits = self.hits(replay.calls)
        told = steps(hits, self.pool, EDGES[self.tier]) if hits and self.tier != "exact" else []
        threshold = self._threshold(told)
        from_ = threshold if threshold is not None else self.threshold or 0.0
        passing = [hit.right for hit in hits if hit.similarity >= from_]
        earned = self.tier == "exact" or (threshold is not None and bool(passing))
        return ToolCalibration(
            tool=replay.tool,
            tier=self.tier,
            pool=replay.pool,
            calls=len(replay.calls),
            tasks=len({call.task for call in replay.calls}),
            false_hits=len(passing) - sum(passing),
            fidelity=round(shrunk(passing, pooled(hit.right for hit in self.pool if hit.similarity >= from_)), DIGITS),
            earned=earned,
            threshold=threshold if earned else None,
            n_required=self.required,
            within_task=any(call.within_task for call in replay.calls),
            steps=told,
        )

    def _threshold(self, told: Sequence[FidelityStep]) -> float | None:
        """A looser pool must not take from a tool what it would have served under a stricter one: the floor only ends where it begins."""
        if self.threshold is None:
            return None
        return next((max(self.threshold, step.similarity) for step in told if step.fidelity >= self.floor), None)


def curve(calls: Sequence[Replayed], levels: Sequence[Level]) -> list[CurvePoint]:
    """Over all tools: share of the replayed calls that each level would answer, and answer wrongly, with the bound of the latter."""
    points: list[CurvePoint] = []
    for level in levels if calls else ():
        served = answers(level, calls)
        found = losses(counts(level, calls))
        points.append(
            CurvePoint(
                threshold=level.fuzzy if level.best_effort is None else level.best_effort,
                coverage=len(served) / len(calls),
                false_hit_rate=(len(served) - sum(served)) / len(calls),
                bound=round(upper_bound(sum(found), len(found)), DIGITS),
            )
        )
    return points
