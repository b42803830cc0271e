"""What a tool does, as the recordings show it (method §3.2): whether calls of it change what others see, and whether it is drawn by lot.

Does M mutate? Calls of other tools of its resource group are compared, each with itself in another run: same scenario, same arguments,
the same calls before it that are known to mutate, once with calls of M before it and once without. Do the results differ more often than
in two runs without M (the noise; Fisher's exact test, corrected for the number of questions)? Then M mutates, whatever its name says, and
counts as such where the next tool is asked, so that one that is only called beside it is not taken for it. Many comparisons without a
difference clear a tool of which nothing else is known. They do not clear one whose words say that it changes something: its effect may lie
where no recorded call looks. Few comparisons: what was known before stands, and stays weak.

A tool is stochastic where two runs with one history and one call give different results, by more than a few.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from scipy.stats import hypergeom

from cacherl.tool_spec import ToolSpec
from services.cache_api.learning.evidence import Compared, Digests, compared, mixed, most_frequent
from services.cache_api.learning.traces import Columns, Traces

ALPHA = 0.01
MIN_DIFFERING = 2
MIN_CLEARED = 60
"""Comparisons without one difference that clear a tool: at most 5 % of its calls change anything, with 95 % confidence."""
MIN_REPEATED = 10
STOCHASTIC = 0.05
"""A tool is stochastic where at least this share of its repetitions differ, with 95 % confidence."""
MAX_ASKED = 300
"""Tools that are asked about, most called first."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What the recordings say about one tool."""

    mutating: bool | None
    compared: Compared
    noise: Compared
    p: float

    def model(self, strength: str) -> dict[str, Any]:
        """As it stands in a tool's `inferred`."""
        return {
            "from": "recordings",
            "comparisons": self.compared.comparisons,
            "differing": self.compared.conflicts,
            "noise": {"comparisons": self.noise.comparisons, "differing": self.noise.conflicts},
            "p": float(f"{self.p:.3g}"),
            "strength": strength,
        }


def effects(traces: Traces, specs: Mapping[str, ToolSpec]) -> dict[str, Effect]:
    """What the recordings show of every tool that nobody was certain about. Only those are changed for which `mutating` is not None."""
    columns, names = traces.columns, list(traces.tools)
    mutates_T = np.array([_known(specs.get(name)) is True for name in names])
    open_tools = _asked(columns, names, specs)
    corrected = ALPHA / max(1, len(open_tools))
    found: dict[str, Effect] = {}
    while True:
        shown = {name: effect_of(columns, traces.tools[name], mutates_T) for name in open_tools if name not in found}
        sure = [name for name, effect in shown.items() if effect.p < corrected and effect.compared.conflicts >= MIN_DIFFERING]
        quiet = [name for name in shown if _known(specs.get(name)) is not False and name not in sure]
        first = min(sure, key=lambda name: (shown[name].p, -shown[name].compared.conflicts, name), default=None)
        if first is None:
            return found | {name: _settled(shown[name], cleared=name in quiet and _known(specs.get(name)) is None) for name in shown}
        effect = shown[first]
        found[first] = Effect(True, effect.compared, effect.noise, effect.p)
        mutates_T[traces.tools[first]] = True


def _settled(effect: Effect, *, cleared: bool) -> Effect:
    clear = cleared and effect.compared.comparisons >= MIN_CLEARED and not effect.compared.conflicts
    return Effect(False if clear else None, effect.compared, effect.noise, effect.p)


def _asked(columns: Columns, names: list[str], specs: Mapping[str, ToolSpec]) -> list[str]:
    """Tools that are unknown, or read-only by their words alone; most called first."""
    calls_T = np.bincount(columns.caller_L, minlength=len(names))
    asked = [name for name in names if _known(specs.get(name)) is not True and not _certain(specs.get(name))]
    return sorted(asked, key=lambda name: (-int(calls_T[names.index(name)]), name))[:MAX_ASKED]


def _known(spec: ToolSpec | None) -> bool | None:
    return spec.annotations.mutating if spec is not None else None


def _certain(spec: ToolSpec | None) -> bool:
    """Whether somebody said whether it mutates: a user, or the server's hints."""
    if spec is None or spec.annotations.mutating is None:
        return False
    proof = spec.annotations.inferred.get("mutating")
    return not isinstance(proof, dict) or proof.get("strength") != "weak"


def effect_of(columns: Columns, tool: int, mutates_T: NDArray[np.bool_]) -> Effect:
    """Calls of other tools of the group after calls of `tool`, against the same calls without them."""
    group = columns.group_T == columns.group_T[tool]
    seen_N = group[columns.asked_N] & (columns.asked_N != tool)
    others_T = mutates_T & group
    others_T[tool] = False
    only_T = np.zeros(len(group), dtype=np.bool_)
    only_T[tool] = True
    with_A = columns.before(only_T)[seen_N]
    same_A = mixed(columns.call_N[seen_N], columns.before(others_T)[seen_N])
    result_A, source_A = columns.result_N[seen_N], columns.source_N[seen_N]
    without_A = with_A == 0
    noise = compared(same_A[without_A], mixed(same_A[without_A], source_A[without_A]), result_A[without_A])
    pairs = _against(same_A, with_A, source_A, result_A)
    return Effect(None, pairs, noise, _p(pairs, noise))


def _against(same_A: Digests, with_A: Digests, source_A: Digests, result_A: Digests) -> Compared:
    """Each run with the tool against the most frequent result of those without it."""
    without_A = with_A == 0
    if not without_A.any() or without_A.all():
        return Compared(0, 0)
    base_K, expected_K, _ = most_frequent(same_A[without_A], result_A[without_A])
    run_B = mixed(mixed(same_A[~without_A], with_A[~without_A]), source_A[~without_A])
    _, result_R, first_R = most_frequent(run_B, result_A[~without_A])
    asked_R = same_A[~without_A][first_R]
    place_R = np.minimum(np.searchsorted(base_K, asked_R), len(base_K) - 1)
    met_R = base_K[place_R] == asked_R
    return Compared(int(met_R.sum()), int((met_R & (expected_K[place_R] != result_R)).sum()))


def _p(pairs: Compared, noise: Compared) -> float:
    """Fisher's exact test, one-sided: that the share of differing pairs is no greater than the noise's."""
    total = pairs.comparisons + noise.comparisons
    if not pairs.conflicts or not total:
        return 1.0
    return float(hypergeom.sf(pairs.conflicts - 1, total, pairs.conflicts + noise.conflicts, pairs.comparisons))


def repeated(traces: Traces) -> dict[str, Compared]:
    """Per tool: runs of one call after one and the same history, against one another."""
    columns = traces.columns
    history_N = columns.before(np.ones(len(traces.tools), dtype=np.bool_))
    same_N = mixed(columns.call_N, history_N)
    found: dict[str, Compared] = {}
    for name, tool in traces.tools.items():
        mine_N = columns.asked_N == tool
        found[name] = compared(same_N[mine_N], mixed(same_N[mine_N], columns.source_N[mine_N]), columns.result_N[mine_N])
    return found


def stochastic(found: Compared) -> bool | None:
    """Whether repetitions differ; None where there are too few to say."""
    if found.comparisons < MIN_REPEATED:
        return None
    if not found.conflicts:
        return False if found.comparisons >= MIN_CLEARED else None
    lower = float(betaincinv(found.conflicts, found.comparisons - found.conflicts + 1, 0.05))
    return True if lower > STOCHASTIC else None


def annotated(specs: Mapping[str, ToolSpec], traces: Traces, names: Iterable[str] | None = None) -> dict[str, ToolSpec]:
    """The specs with what the recordings show of mutation and chance. What somebody gave stays."""
    shown, again = effects(traces, specs), repeated(traces)
    out = dict(specs)
    for name in names if names is not None else specs:
        said = specs[name].annotations
        updates: dict[str, Any] = {}
        proofs = dict(said.inferred)
        effect = shown.get(name)
        before = proofs.get("mutating")
        if effect is not None and effect.mutating is not None:
            updates["mutating"], proofs["mutating"] = effect.mutating, effect.model("strong")
        elif effect is not None and effect.compared.comparisons and isinstance(before, dict):
            proofs["mutating"] = {**before, "recordings": effect.model("weak")}
        runs = again.get(name)
        if said.stochastic is None and runs is not None and (drawn := stochastic(runs)) is not None:
            updates["stochastic"] = drawn
            counted: dict[str, Any] = {"comparisons": runs.comparisons, "differing": runs.conflicts}
            proofs["stochastic"] = {"from": "recordings", "strength": "strong", **counted}
        if updates or proofs != said.inferred:
            out[name] = specs[name].model_copy(update={"annotations": said.model_copy(update=updates | {"inferred": proofs})})
    return out
