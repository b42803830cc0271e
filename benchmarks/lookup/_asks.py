"""The lookups that are measured: recorded calls, calls that differ from one in a few words, and calls that nobody recorded."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.lookup._workload import CALLS, SMALLEST, SPECS, TOOLS, WORDS, Run, arguments, one_run
from cacherl.state import State, advance
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall
from cacherl.tool_spec import ToolSpec

TEXT_TOOLS = ("mail.search", "office.search_notes", "shop.find_products", SMALLEST)
UNSEEN = 50_000_000
"""Trajectories from here on are in no cache."""
KNOWN = {name: ToolSpec.model_validate(value) for name, value in SPECS.items()}


@dataclass(frozen=True, slots=True)
class Read:
    """How a cache reads its recordings: a view, and its tools with the annotations in force, inferred ones among them."""

    view: str
    specs: Mapping[str, ToolSpec]


AS_GIVEN = Read("viw_x", KNOWN)
"""For requests that nobody answers."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One lookup."""

    item: dict[str, Any]
    answer: str | None = None
    """What was recorded for it."""


def item(run: Run, place: int, read: Read, given: dict[str, Any]) -> dict[str, Any]:
    """The call at a place of a trajectory, with these arguments, in the state that it was recorded in."""
    state = State.start(read.view)
    for name, past, answer in run.calls[:place]:
        state = advance(state, ToolCall(name=name, arguments=past), read.specs[name], CallOutcome.EXACT, ToolResult(content=answer))
    return {"calls": [{"name": run.calls[place][0], "arguments": given}], "scenario": run.scenario, "state": state.token}


def exact(read: Read, entries: int, count: int, seed: int = 1) -> list[Asked]:
    """Recorded calls, drawn evenly over the trajectories."""
    random_ = random.Random(seed)
    asked: list[Asked] = []
    for number in random_.sample(range(entries // CALLS), min(count, entries // CALLS)):
        run, place = one_run(number), random_.randrange(CALLS)
        asked.append(Asked(item(run, place, read, run.calls[place][1]), run.calls[place][2]))
    return asked


def reworded(read: Read, entries: int, count: int, *, alike: bool, seed: int = 2) -> list[Asked]:
    """Recorded questions in other words: one word more that says nothing, or, where not `alike`, half of the words exchanged."""
    random_ = random.Random(seed)
    asked: list[Asked] = []
    while len(asked) < count:
        run = one_run(random_.randrange(entries // CALLS))
        place = next((n for n, call in enumerate(run.calls) if call[0] in TEXT_TOOLS), None)
        if place is None:
            continue
        given = dict(run.calls[place][1])
        words = given["query"].split()
        half = len(words) // 2
        words = ["the", *words] if alike else [*words[: len(words) - half], *random_.choices(WORDS, k=half + 1)]
        asked.append(Asked(item(run, place, read, given | {"query": " ".join(words)})))
    return asked


def unseen(count: int, seed: int = 3) -> list[Asked]:
    """Calls that were never recorded, of all tools as often as they are used."""
    found: list[Asked] = []
    for number in range(count):
        run = one_run(UNSEEN + seed * 1_000_000 + number)
        name, given, _ = run.calls[0]
        found.append(Asked({"calls": [{"name": name, "arguments": given}], "scenario": run.scenario}))
    return found


def unseen_of(tool: str, count: int) -> list[Asked]:
    """Calls of one tool that were never recorded."""
    kind = next(one for one in TOOLS if one[0] == tool)
    random_ = random.Random(f"unseen {tool}")
    return [Asked({"calls": [{"name": tool, "arguments": arguments(kind, random_)}], "scenario": "desk-0"}) for _ in range(count)]
