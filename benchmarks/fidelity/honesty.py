"""Is the bound honest? False answers on tasks that calibration never saw, against the target that calibration was given.

    python -m benchmarks fidelity.honesty -- --data ../shared/data --seeds 5

WorkBench's tasks are split in half in several ways; one half is recorded and calibrated at several targets, the other replayed. Wider
targets than the usual 1 % are asked for because half of the tasks are too few to earn anything at 1 % (299 are needed): where nothing is
earned, nothing can break the bound. For the same reason each tool is told that its texts matter: where they are learned to be immaterial,
WorkBench's near calls are exact ones, and nothing is left for a guess.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.fidelity._service import service
from benchmarks.fidelity._sources import half
from cacherl.fidelity.measure import Measured, measure
from cacherl.importers import import_file
from cacherl.tier import CallOutcome
from cacherl.tool_spec import Annotations

TARGETS = (0.03, 0.05, 0.1)


async def _measure(data: Path, seeds: int) -> list[dict[str, Any]]:
    found = list(import_file(data / "workbench/trajectories.jsonl"))
    material = {
        name: Annotations(immaterial=[]) for name in {call.function.name for t in found for m in t.messages for call in m.tool_calls}
    }
    runs: list[dict[str, Any]] = []
    async with service() as client:
        for seed in range(1, seeds + 1):
            record = [t for t in found if half(t.task_id, seed) == 0]
            replay = [t for t in found if half(t.task_id, seed) == 1]
            for target in TARGETS:
                measured = await measure(client, record, replay, target_false=target, annotations=material)
                runs.append({"seed": seed, "target": target} | _run(measured))
                print(runs[-1], file=sys.stderr)
    return runs


def _run(measured: Measured) -> dict[str, Any]:
    calls = len(measured.answers)
    tiers = {
        tier.value: {
            "hits": sum(answer.outcome is tier for answer in measured.answers),
            "false": sum(answer.outcome is tier and answer.right is False for answer in measured.answers),
        }
        for tier in (CallOutcome.EXACT, CallOutcome.FUZZY, CallOutcome.BEST_EFFORT)
    }
    told = [answer.fidelity for answer in measured.answers if answer.fidelity is not None and answer.outcome is not CallOutcome.EXACT]
    assert measured.calibration is not None
    return {
        "calls": calls,
        "tiers": tiers,
        "false_of_calls": sum(tier["false"] for tier in tiers.values()) / calls,
        "mean_fidelity_told_below_exact": sum(told) / len(told) if told else None,
        "earned": {f"{pool.pool} {pool.tier}": [pool.threshold, pool.bound] for pool in measured.calibration.pools if pool.earned},
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=None, help="also write them to this file")
    options = parser.parse_args()
    runs = asyncio.run(_measure(options.data, options.seeds))
    broken = sum(run["false_of_calls"] > run["target"] for run in runs)
    answer = json.dumps({"runs": runs, "splits_over_their_target": broken, "of": len(runs)}, indent=1)
    if options.results is not None:
        options.results.write_text(answer + "\n", encoding="utf-8")
    print(answer)


if __name__ == "__main__":
    main()
