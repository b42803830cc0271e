"""Fidelity: how often caches of tool results answer calls that they have not seen, and how often wrongly, on public recordings.

    .venv/bin/pip install -e .[bench]          for the real GPTCache
    python -m benchmarks fidelity.compare -- --data ../shared/data [--only workbench]

Every split is recorded and replayed through the real service (`cacherl cache fidelity`'s own code), and the rules of other caches see the
same calls in the same run. A rule with a threshold is shown at the best one that keeps false answers within 1 % of all calls, chosen on
the replayed side itself (which flatters it); where it has none, at its own. Ours is chosen by calibration on the recorded side alone.
Writes fidelity/compare.json and plots beside the other results.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.fidelity import _gptcache, _plots
from benchmarks.fidelity._baselines import RULES, Verdict, by_key, ordinal
from benchmarks.fidelity._service import service
from benchmarks.fidelity._sources import Split, refused, splits
from cacherl.fidelity.measure import Measured, measure
from cacherl.fidelity.rate import TaskHits, rate
from cacherl.fidelity.replayed_call import ReplayedCall, replayed_calls
from cacherl.tier import CallOutcome
from cacherl.tool_spec import ToolSpec

TARGET = 0.01
RESULTS = Path(__file__).resolve().parents[1] / "results" / "fidelity"
OURS, EXACT, PLAIN, PAPER = "CacheRL robust", "CacheRL robust, exact", "plain key", "CacheRL paper"


def main() -> None:
    """Prints the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", default="", help="splits whose name begins so")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    chosen = [split for split in splits(options.data) if split.name.startswith(options.only)]
    runs = asyncio.run(_compare(chosen))
    answer = {"target_false": TARGET, "runs": runs, "not_imported": refused(options.data), "plots": _plots.draw(runs, options.results)}
    (options.results / "compare.json").write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(answer, indent=1, ensure_ascii=False))


async def _compare(chosen: Sequence[Split]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    async with service() as client:
        for split in chosen:
            began = time.monotonic()
            robust = await measure(client, split.record, split.replay, target_false=TARGET)
            paper = await measure(client, split.record, split.replay, preset="paper")
            seconds = time.monotonic() - began
            runs.append(_run(split, robust, paper) | {"seconds_robust_and_paper": round(seconds, 1)})
            for name, rule in runs[-1]["rules"].items():
                told = f"{rule['hit_rate']:7.1%} hits {rule['false_of_hits']:7.2%} of them false {rule['false_of_calls']:7.2%} of all"
                print(f"{split.name:24} {name:40} {told}", file=sys.stderr)
    return runs


def _run(split: Split, robust: Measured, paper: Measured) -> dict[str, Any]:
    calls = [answer.call for answer in robust.answers]
    specs = robust.specs
    record = list(replayed_calls(split.record, specs))
    exact = [answer.right if answer.outcome is CallOutcome.EXACT else None for answer in robust.answers]
    plain = [answer.plain for answer in robust.answers]
    rules: dict[str, list[Verdict]] = {
        OURS: [answer.right for answer in robust.answers],
        EXACT: exact,
        PLAIN: plain,
        **{name: by_key(rule, record, calls, specs) for name, rule in RULES.items()},
        "VCR (ordinal)": ordinal(record, calls, specs),
        PAPER: [answer.right for answer in paper.answers],
    }
    told = {name: _rule(calls, found) for name, found in rules.items()}
    swept = _gptcache.verdicts(record, calls, specs)
    curve = [{"threshold": limit} | _rule(calls, found) for limit, found in swept.items()]
    best = _best(curve)
    told[f"GPTCache at {best['threshold']}"] = {name: value for name, value in best.items() if name != "threshold"}
    within = [r["hit_rate"] for name, r in told.items() if name not in (OURS, EXACT) and r["false_of_calls"] <= TARGET]
    return {
        "split": split.name,
        "what": split.what,
        "recorded": {"trajectories": len(split.record), "calls": len(record), "tasks": len({call.task for call in record})},
        "replayed": {"trajectories": len(split.replay), "calls": len(calls), "tasks": len({call.task for call in calls})},
        "rules": told,
        "gptcache": curve,
        "report": robust.report().model_dump(mode="json", by_alias=True),
        "noise_floor": robust.calibration.noise_floor if robust.calibration else None,
        "fidelity": _reliability(robust),
        "scopes": _scopes(specs),
        "right_hits_of_plain": told[EXACT]["right"] / told[PLAIN]["right"] if told[PLAIN]["right"] else None,
        "best_baseline_within_target": max(within, default=None),
        "met": {
            "exact false ≤ 0.5 % of hits": told[EXACT]["false_of_hits"] <= 0.005,
            "hit rate above every baseline within 1 % false": not within or told[OURS]["hit_rate"] > max(within),
            "hit rate not below any of them": not within or told[OURS]["hit_rate"] >= max(within),
            "false within the target": told[OURS]["false_of_calls"] <= TARGET,
        },
    }


def _rule(calls: Sequence[ReplayedCall], found: Sequence[Verdict]) -> dict[str, Any]:
    tasks: dict[str, TaskHits] = {}
    for call, right in zip(calls, found, strict=True):
        if right is not None:
            task = tasks.setdefault(call.task, TaskHits())
            task.hits, task.false = task.hits + 1, task.false + (not right)
    counted = rate(len(calls), tasks.values())
    return {
        "hits": counted.hits,
        "hit_rate": counted.hit_rate,
        "right": counted.hits - counted.false_hits,
        "false": counted.false_hits,
        "false_of_hits": counted.false_hit_rate,
        "interval": counted.interval,
        "false_of_calls": counted.false_hits / len(calls),
    }


def _best(curve: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The threshold with the most hits within the target; where none has one, the library's own."""
    within = [point for point in curve if point["false_of_calls"] <= TARGET and point["hits"]]
    return max(within, key=lambda point: point["hit_rate"]) if within else next(p for p in curve if p["threshold"] == _gptcache.OWN)


def _reliability(robust: Measured) -> dict[str, Any]:
    """The mean fidelity that was served with hits, and the share of them that was right: equal where it is a probability."""
    told = [(answer.fidelity, answer.right) for answer in robust.answers if answer.fidelity is not None and answer.right is not None]
    if not told:
        return {"hits": 0}
    return {"hits": len(told), "told": sum(f for f, _ in told) / len(told), "right": sum(r for _, r in told) / len(told)}


def _scopes(specs: Mapping[str, ToolSpec]) -> dict[str, int]:
    """How many of the tools that look have which scope."""
    counted: dict[str, int] = {}
    for spec in specs.values():
        if spec.annotations.mutating is False:
            scope = str(spec.annotations.scope or "unknown")
            counted[scope] = counted.get(scope, 0) + 1
    return counted


if __name__ == "__main__":
    main()
