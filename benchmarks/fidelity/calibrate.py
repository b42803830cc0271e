"""Calibration of a large cache: how long it takes, how much memory it needs beside the service, whether it says how far it is.

    python -m benchmarks fidelity.calibrate -- --entries 100000

The recordings are synthetic: reads by id, questions in free text (most of them asked once), writes that move the state of a group.
"""

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil

from benchmarks.fidelity._service import service
from cacherl.api.cache import CacheCreate, CalibrationCreate
from cacherl.trajectory import Trajectory

CALLS = 10
TEXT: dict[str, Any] = {"type": "string"}
PLACES = ["museum", "library", "harbour", "castle", "market", "theatre", "station", "garden", "bridge", "tower", "cinema", "stadium"]
WORDS = [
    "when",
    "where",
    "how",
    "early",
    "late",
    "today",
    "tomorrow",
    "weekend",
    "open",
    "close",
    "cheap",
    "far",
    "crowded",
    "quiet",
    "guided",
    "free",
]


def tool(name: str, mutating: bool, **properties: Any) -> dict[str, Any]:
    """A tool with its annotation."""
    function = {"name": name, "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function, "annotations": {"mutating": mutating}}


TOOLS = [
    *(tool(f"shop{n}.get_item", False, item_id=TEXT) for n in range(6)),
    *(tool(f"shop{n}.order_item", True, item_id=TEXT, amount={"type": "integer"}) for n in range(6)),
    tool("guide.search", False, query=TEXT),
    tool("diary.write", True, text=TEXT),
]


def recordings(entries: int) -> Iterator[Trajectory]:
    """So many calls, ten in a trajectory, three trajectories of a task."""
    random = Random(5)
    for number in range(entries // CALLS):
        messages: list[dict[str, Any]] = [{"role": "user", "content": "do it"}]
        for step in range(CALLS):
            name, arguments, result = _call(random)
            made = {"id": f"c{step}", "type": "function", "function": {"name": name, "arguments": arguments}}
            messages.append({"role": "assistant", "content": None, "tool_calls": [made]})
            messages.append({"role": "tool", "tool_call_id": f"c{step}", "content": result})
        task = f"task{number // 3}"
        yield Trajectory.model_validate({"id": f"r{number}", "messages": messages, "tools": TOOLS, "scenario": "town", "task_id": task})


def _call(random: Random) -> tuple[str, dict[str, Any], str]:
    shop, kind = random.randrange(6), random.random()
    if kind < 0.5:
        item = f"A{random.randrange(2000)}"
        return f"shop{shop}.get_item", {"item_id": item}, json.dumps({"item": item, "price": sum(map(ord, item)) % 97})
    if kind < 0.6:
        return f"shop{shop}.order_item", {"item_id": f"A{random.randrange(2000)}", "amount": random.randrange(1, 9)}, "ordered"
    if kind < 0.9:
        place = random.choice(PLACES)
        return "guide.search", {"query": f"{' '.join(random.sample(WORDS, 4))} is the {place}"}, f"{place}: see page {len(place)}"
    return "diary.write", {"text": f"{' '.join(random.choices(WORDS, k=8))} {random.randrange(1000)}"}, "noted"


async def _measure(entries: int) -> dict[str, Any]:
    async with service() as client:
        await client.create(CacheCreate(name="large"))
        began = time.monotonic()
        for start in range(0, entries, 10_000):
            lines = [t for n, t in enumerate(recordings(entries)) if start <= n * CALLS < start + 10_000]
            await client.ingest("large", lines, batch=f"b{start}")
        recorded = time.monotonic() - began
        before = psutil.Process().memory_info().rss
        began = time.monotonic()
        found = await client.calibrate("large", CalibrationCreate())
        seen: set[float] = set()
        while not found.state.final:
            await asyncio.sleep(0.5)
            found = await client.calibration("large", found.id)
            seen.add(found.progress.done)
        seconds = time.monotonic() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "entries": (await client.get("large")).entries,
            "state": found.state,
            "record_s": round(recorded, 1),
            "calibrate_s": round(seconds, 1),
            "replayed_calls": sum(tool.calls for tool in found.tools if tool.tier == "fuzzy"),
            "progress_values_seen": len(seen),
            "resident_before_mib": before >> 20,
            "resident_peak_mib": peak >> 20,
            "pools": [pool.model_dump(mode="json") for pool in found.pools],
        }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--results", type=Path, default=None, help="also write them to this file")
    options = parser.parse_args()
    answer = json.dumps(asyncio.run(_measure(options.entries)), indent=1)
    if options.results is not None:
        options.results.write_text(answer + "\n", encoding="utf-8")
    print(answer)


if __name__ == "__main__":
    main()
