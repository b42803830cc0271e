"""Why a call was answered as it was: the nearest recording, how its arguments differ, and the gate that stopped each better tier."""

from collections.abc import Sequence
from typing import Any

from cacherl.api.cache import CacheSettings
from cacherl.tier import Preset, Tier
from cacherl.tool_call import canonical_arguments
from services.cache_api.argument import is_text, jaccard, pairs, veto
from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates
from services.cache_api.embed import leaves
from services.cache_api.store import Row
from services.cache_api.tiers.candidate import Candidate

ABSENT = "absent"


async def explain(asks: Sequence[Ask], preset: Preset, settings: CacheSettings, candidates: Candidates) -> None:
    """Fills in `explanation` of every ask whose tool is known."""
    known = [one for one in asks if one.tool is not None and one.malformed is None]
    if not known:
        return
    nearest = await candidates.near_paper(known, limit=1)
    elsewhere = await candidates.elsewhere(known)
    for one, near, other in zip(known, nearest, elsewhere, strict=True):
        gates = gates_of(one, preset, settings, other)
        best = min(near, key=lambda c: (-c.support, c.entry)) if near else None  # results of one call: the database gives them in any order
        one.explanation = {"nearest": describe(one, best) if best is not None else None, "gates": gates}


def describe(one: Ask, candidate: Candidate) -> dict[str, Any]:
    """The nearest recording and each argument that differs."""
    recorded = canonical_arguments(candidate.recorded_arguments, one.spec)
    return {
        "entry": candidate.entry,
        "arguments": candidate.recorded_arguments,
        "cosine": round(1 - candidate.distance, 6),
        "jaccard": round(jaccard(pairs(one.canonical), pairs(recorded)), 6),
        "differences": differences(one, recorded),
    }


def differences(one: Ask, recorded: dict[str, Any]) -> list[dict[str, Any]]:
    """Per argument that differs: what was asked, what was recorded, and whether the difference vetoes a match."""
    asked, other = dict(leaves(one.canonical)), dict(leaves(recorded))
    found: list[dict[str, Any]] = []
    for path in sorted(asked.keys() | other.keys()):
        mine, theirs = asked.get(path, ABSENT), other.get(path, ABSENT)
        if path in asked and path in other and mine == theirs and type(mine) is type(theirs):
            continue
        both_text = path in asked and path in other and is_text(path, mine, one.spec) and is_text(path, theirs, one.spec)
        reason = veto(mine, theirs) if both_text else "it names a thing"
        found.append({"pointer": f"/arguments{path}", "asked": mine, "recorded": theirs, "veto": reason})
    return found


def gates_of(one: Ask, preset: Preset, settings: CacheSettings, elsewhere: Row) -> dict[str, str]:
    """For each tier better than the one that answered, what stopped it."""
    stopped = {
        Tier.EXACT: _exact_gate(one, elsewhere) if preset == "robust" else "this call was never recorded",
        Tier.FUZZY: _fuzzy_gate(one) if preset == "robust" else f"no recording reaches the similarity {settings.fuzzy_threshold}",
        Tier.BEST_EFFORT: _guess_gate(one, settings.fidelity_floor) if preset == "robust" else "the tool was never recorded",
    }
    return {tier.value: gate for tier, gate in stopped.items() if tier.rank < one.tier.rank}


def _exact_gate(one: Ask, elsewhere: Row) -> str:
    if one.faults:
        return "the schema refuses the arguments, and no error was recorded for them"
    if one.scoped_state is None:
        return "the state is unknown"
    if elsewhere["other_state"]:
        return "recorded in another state, or past its ttl, or under another schema, or with a transient error"
    return "recorded in another scenario only" if elsewhere["other_scenario"] else "this call was never recorded"


def _fuzzy_gate(one: Ask) -> str:
    if one.faults:
        return "the schema refuses the arguments"
    if one.scoped_state is None:
        return "the state is unknown"
    if one.fuzzy is None:
        return "calibration has not earned this tool its fuzzy tier"
    return f"no recording of equal identity, scenario and state reaches the similarity {one.fuzzy.threshold}"


def _guess_gate(one: Ask, floor: float) -> str:
    if one.faults:
        return "the schema refuses the arguments"
    if one.scoped_state is None:
        return "the state is unknown"
    if one.best_effort is None:
        return "calibration has not earned this tool its best-effort tier"
    if one.best_effort.fidelity_at(1.0) < floor:
        return f"its calibrated fidelity {one.best_effort.fidelity_at(1.0):.3f} lies below the floor {floor}"
    return f"no recording of equal identity, scenario and state is near enough (cosine {one.best_effort.threshold}, fidelity {floor})"
