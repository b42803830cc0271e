"""Facts become the report: intervals, pairs, shares. Nothing here is measured, and nothing is left out because it looks bad."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from cacherl.evaluation import Evaluation, Way
from cacherl.intervals import Ci, bootstrap_mean, bootstrap_paired
from cacherl.pipeline.facts import RunFacts
from cacherl.report.model import CacheRow, Cost, LiveCalls, Pair, PolicyRow, Report, TimeSpent
from cacherl.report.notes import notes

PACKAGES = ("torch", "transformers", "trl", "tokenizers", "fastapi", "celery", "psycopg", "pgvector")
PAIRS = (
    ("sft", "base"),
    ("grpo", "sft"),
    ("grpo", "sft_continued"),
    ("sft_accepted", "sft_continued"),
    ("grpo", "sft_accepted"),
    ("recipe", "sft_accepted"),
)
"""Which rows are compared: fixed, not chosen by result."""
HITS = ("exact", "fuzzy", "best_effort")


def build(facts: RunFacts, *, install_s: float | None, total_s: float, live_away: str | None = None) -> Report:
    """The report of a run. `live_away` says why there are no live tools."""
    rows = {row: _row(facts.evaluations[row]) for row in facts.plan.rows if row in facts.evaluations}
    report = Report(
        versions=_versions(),
        config=facts.plan.model_dump(mode="json"),
        data=facts.data,
        policies=rows,
        paired=list(_pairs(facts.evaluations)),
        tiers=_shares(_outcomes(facts.evaluations.values(), (Way.CACHED, Way.CACHED_IN))),
        training_tiers=_shares(_training_outcomes(facts)),
        cache=_cache(facts),
        live_calls=_live_calls(facts),
        cost=_cost(facts, rows),
        time_s=TimeSpent(install=install_s, total=total_s, stages=facts.seconds, spans=_spans(facts)),
        steps=facts.grpo_steps.get("grpo", []),
        losses=facts.sft_steps.get("sft", []),
        notes=[],
    )
    report.notes = notes(report, facts, live_away)
    return report


def _row(evaluation: Evaluation) -> PolicyRow:
    main = evaluation.ways.get(Way.LIVE) or evaluation.ways[Way.CACHED]
    return PolicyRow(
        tasks=len(main.tasks),
        success=_interval(evaluation, Way.LIVE, "success_K"),
        success_greedy=_interval(evaluation, Way.LIVE_GREEDY, "success_K"),
        cached_success=_interval(evaluation, Way.CACHED, "success_K"),
        cached_success_in_cache=_interval(evaluation, Way.CACHED_IN, "success_K"),
        process_accuracy=_interval(evaluation, _main(evaluation), "process_accuracy_K"),
        call_f1=_interval(evaluation, _main(evaluation), "call_f1_K"),
        answer=_interval(evaluation, _main(evaluation), "answer_K"),
        validation_reward=_interval(evaluation, Way.CACHED, "reward_K"),
        turns=main.mean_turns,
        tokens=main.mean_tokens,
    )


def _main(evaluation: Evaluation) -> Way:
    return Way.LIVE if Way.LIVE in evaluation.ways else Way.CACHED


def _vectors(evaluation: Evaluation, way: Way, metric: str) -> dict[str, list[float | None]]:
    result = evaluation.ways.get(way)
    return {task.task_id: getattr(task, metric) for task in result.tasks} if result else {}


def _interval(evaluation: Evaluation, way: Way, metric: str) -> Ci | None:
    known = [[x for x in values if x is not None] for values in _vectors(evaluation, way, metric).values()]
    known = [values for values in known if values]
    return bootstrap_mean(known) if known else None


def _pairs(evaluations: dict[str, Evaluation]) -> Iterable[Pair]:
    measures = [
        ("success", Way.LIVE, "success_K"),
        ("success_greedy", Way.LIVE_GREEDY, "success_K"),
        ("validation_reward", Way.CACHED, "reward_K"),
    ]
    for a, b in PAIRS:
        if a not in evaluations or b not in evaluations:
            continue
        for name, way, metric in measures:
            left, right = (_vectors(evaluations[row], way, metric) for row in (a, b))
            both = [_common(left[task], right[task]) for task in left if task in right]
            both = [pair for pair in both if pair[0]]
            if both:
                yield Pair(a=a, b=b, metric=name, difference=bootstrap_paired([x for x, _ in both], [y for _, y in both]))


def _common(left: list[float | None], right: list[float | None]) -> tuple[list[float], list[float]]:
    both = [(x, y) for x, y in zip(left, right, strict=True) if x is not None and y is not None]
    return [x for x, _ in both], [y for _, y in both]


def _outcomes(evaluations: Iterable[Evaluation], ways: Iterable[Way]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for evaluation in evaluations:
        for way in ways:
            if way in evaluation.ways:
                counts.update(evaluation.ways[way].outcomes)
    return counts


def _training_outcomes(facts: RunFacts) -> Counter[str]:
    counts: Counter[str] = Counter()
    for steps in facts.grpo_steps.values():
        for step in steps:
            counts.update(_counts(step.get("outcomes")))
    return counts


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {name: counts[name] / total if total else 0.0 for name in (*HITS, "miss", "unknown_tool", "malformed")}


def _cache(facts: RunFacts) -> CacheRow:
    counts = _outcomes(facts.evaluations.values(), (Way.CACHED,))
    reached = sum(counts[tier] for tier in (*HITS, "miss"))
    by_tier: dict[str, dict[str, int]] = {}
    for evaluation in facts.evaluations.values():
        for tier, served in evaluation.served.items():
            row = by_tier.setdefault(tier, {"calls": 0, "false_hits": 0})
            row["calls"] += served.calls
            row["false_hits"] += served.false_hits
    hits = sum(row["calls"] for tier, row in by_tier.items() if tier in HITS)
    wrong = sum(row["false_hits"] for tier, row in by_tier.items() if tier in HITS)
    calibration = facts.calibration.get("train", {})
    return CacheRow(
        entries=facts.caches["train"]["stored"],
        hit_rate=sum(counts[tier] for tier in HITS) / reached if reached else 0.0,
        false_hit_rate=wrong / hits if hits else None,
        against="live" if by_tier else "held-out recordings",
        by_tier=by_tier,
        curve=calibration.get("curve", []),
        calibration=calibration.get("tools", []),
    )


def _live_calls(facts: RunFacts) -> LiveCalls:
    counts = facts.live_counts
    before, trained, final = (counts.get(k) for k in ("before", "after_training", "after_evaluation"))
    training = _training_outcomes(facts)
    if "reject" in facts.jobs:
        training.update(_counts(facts.jobs["reject"].result.get("outcomes")))
    return LiveCalls(
        while_training=trained - before if trained is not None and before is not None else None,
        evaluating=final - trained if final is not None and trained is not None else None,
        served_from_cache=sum(training[tier] for tier in HITS),
        recorded=facts.caches["train"]["stored"],
    )


def _counts(found: object) -> dict[str, int]:
    return {str(name): int(count) for name, count in found.items()} if isinstance(found, dict) else {}


def _cost(facts: RunFacts, rows: dict[str, PolicyRow]) -> Cost:
    def total(field: str) -> float:
        return sum(float(job.result.get(field) or 0) for job in facts.jobs.values())  # pyright: ignore[reportArgumentType]

    start = rows["sft"].success if "sft" in rows else None
    per_point = {}
    for row, job in facts.jobs.items():
        found = rows[row].success if row in rows else None
        if start and found and row not in ("base", "sft") and found.mean > start.mean:
            per_point[row] = float(job.result.get("cpu_seconds") or 0) / (100 * (found.mean - start.mean))  # pyright: ignore[reportArgumentType]
    sampled = total("tokens_sampled") + sum(e.tokens_sampled for e in facts.evaluations.values())
    return Cost(
        tokens_sampled=int(sampled),
        tokens_trained=int(total("tokens_trained")),
        compute_s=total("cpu_seconds"),
        per_point_of_success=per_point or None,
    )


def _spans(facts: RunFacts) -> list[dict[str, Any]]:
    timed = [(label, job.started_at, job.finished_at) for label, job in facts.jobs.items() if job.started_at and job.finished_at]
    if not timed:
        return []
    zero: datetime = min(began for _, began, _ in timed)
    return [{"label": label, "start": (a - zero).total_seconds(), "end": (b - zero).total_seconds()} for label, a, b in timed]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cacherl": importlib.metadata.version("cacherl")}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
