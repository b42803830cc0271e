"""The scope of every tool, learned from the recordings alone, and how many comparisons that takes (method §3.3). Pure.

A finer scope gives more hits and risks stale ones. `required` is the number of comparisons without conflict that a tool must show before
it gets a scope finer than its group. It is not a constant: the recordings are replayed against themselves, a fifth of the *tasks* at a
time and then a fifth of the *sources* (unseen tasks, and new runs of known ones: the two ways in which a cache is asked), with the scopes
that the rest alone would have given. From many comparisons to few, it stops where false hits exceed the target in either way; of the
numbers before that, the fewest is taken for which both ways together stay below it even with one false hit added. False hits that remain
with `STRICTEST` comparisons are no scope's fault and not counted. Recordings too few to show it get `UNPROVEN`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cacherl.tool_spec import Scope
from services.cache_api.learning.evidence import Digests, Evidence, agreeing, evidence_of, most_frequent, rows_of
from services.cache_api.learning.observe import Observations, Table

TARGET_FALSE = 0.005
"""Share of false hits among exact hits."""
CANDIDATES = (80, 40, 20, 12, 8, 5, 3, 2, 1)
STRICTEST = 1 << 62
UNPROVEN = 20
FOLDS = 5
SCOPES = tuple(Scope)


@dataclass(frozen=True, slots=True)
class Trial:
    """What exact hits would have been with this many comparisons required."""

    required: int
    calls: int
    hits: int
    false_hits: int


@dataclass(frozen=True, slots=True)
class Choice:
    """How many comparisons are required, and why."""

    required: int
    proven: bool
    """Whether replaying showed it; else there was too little to replay."""
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    """By what was left out: tasks, sources."""

    def model(self) -> dict[str, Any]:
        """As it is kept with a view."""
        told = {
            way: [{"required": t.required, "calls": t.calls, "hits": t.hits, "false_hits": t.false_hits} for t in trials]
            for way, trials in self.trials.items()
        }
        return {"required": self.required, "proven": self.proven, "replayed": told}


@dataclass(frozen=True, slots=True)
class Learned:
    """The scope of one tool with its evidence."""

    scope: Scope
    evidence: Evidence
    required: int

    def model(self) -> dict[str, Any]:
        """As it stands in a tool's `inferred`. `comparisons`, `conflicts` and `upper` are those of the scope that was chosen."""
        chosen = self.evidence.scopes.get(self.scope) or self.evidence.scopes[Scope.GROUP]
        levels = {scope.value: {"comparisons": c.comparisons, "conflicts": c.conflicts} for scope, c in self.evidence.scopes.items()}
        return {
            "from": "recordings",
            "comparisons": chosen.comparisons,
            "conflicts": chosen.conflicts,
            "upper": round(chosen.upper, 6),
            "required": self.required,
            "strength": "strong" if chosen.comparisons >= self.required and not chosen.conflicts else "weak",
            "levels": levels,
            "noise": {"comparisons": self.evidence.noise.comparisons, "differing": self.evidence.noise.conflicts},
        }


def learned_scopes(
    found: Observations, fixed: Mapping[str, Scope] | None = None, *, required: int | None = None, target_false: float = TARGET_FALSE
) -> tuple[dict[str, Learned], Choice]:
    """The scope of every tool that was called, and the choice of how many comparisons are required.

    `fixed`: scopes that somebody gave; they are not learned, and count as they are where recordings are replayed. `required`: not chosen
    but told.
    """
    choice = Choice(required, True) if required is not None else choose_required(found, fixed or {}, target_false)
    learned: dict[str, Learned] = {}
    for tool in found.tools:
        evidence = evidence_of(found.table(tool))
        learned[tool] = Learned((fixed or {}).get(tool) or evidence.choose(choice.required), evidence, choice.required)
    return learned, choice


def choose_required(found: Observations, fixed: Mapping[str, Scope], target_false: float = TARGET_FALSE) -> Choice:
    """The fewest comparisons that keep the target where the recordings are replayed against themselves."""
    trials = {way: replayed(found, way, fixed) for way in ("task", "source")}
    strictest = [kept[0] for kept in trials.values()]
    chosen: int | None = None
    for place, required in enumerate(CANDIDATES, 1):
        shown = [kept[place] for kept in trials.values()]
        added = [max(0, trial.false_hits - base.false_hits) for trial, base in zip(shown, strictest, strict=True)]
        if any(false > target_false * trial.hits for false, trial in zip(added, shown, strict=True)):
            break
        if (sum(added) + 1) / (sum(trial.hits for trial in shown) + 2) <= target_false:
            chosen = required
    told = {way: kept[1:] for way, kept in trials.items()}
    return Choice(UNPROVEN, False, told) if chosen is None else Choice(chosen, True, told)


def replayed(found: Observations, way: str, fixed: Mapping[str, Scope]) -> list[Trial]:
    """The recordings replayed against themselves, a fifth of the tasks or sources at a time: a trial for `STRICTEST` and each candidate."""
    numbers = (STRICTEST, *CANDIDATES)
    calls, hits_T, false_T = 0, np.zeros(len(numbers), int), np.zeros(len(numbers), int)
    for tool in found.tools:
        table = found.table(tool)
        calls += len(table["call"])
        fold_N = table[way] % np.uint64(FOLDS)
        for fold in range(FOLDS):
            asked_N = fold_N == fold
            if not asked_N.any() or asked_N.all():
                continue
            evidence = evidence_of(rows_of(table, ~asked_N))
            served = {scope: serve(table, scope, asked_N) for scope in SCOPES}
            for place, number in enumerate(numbers):
                hits, false = served[fixed.get(tool) or evidence.choose(number)]
                hits_T[place] += hits
                false_T[place] += false
    return [Trial(n, calls, int(hits), int(false)) for n, hits, false in zip(numbers, hits_T, false_T, strict=True)]


def serve(table: Table, scope: Scope, asked_N: NDArray[np.bool_]) -> tuple[int, int]:
    """(hits, false hits) of the asked rows, answered from all others under a scope."""
    key_N: Digests = agreeing(table, scope)
    keys_K, results_K, _ = most_frequent(key_N[~asked_N], table["result"][~asked_N])
    asked_A = key_N[asked_N]
    place_A = np.minimum(np.searchsorted(keys_K, asked_A), len(keys_K) - 1)
    hit_A = keys_K[place_A] == asked_A
    return int(hit_A.sum()), int((hit_A & (results_K[place_A] != table["result"][asked_N])).sum())
