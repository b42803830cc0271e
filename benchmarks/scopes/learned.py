"""Exact hits under each scope rule: the plain key, every mutation, the resource group, and the scope that is learned per tool.

Without a database: the learners are pure. Each split of the public logs is recorded and replayed as the fidelity benchmark does it; scopes
and the number of comparisons that they take are chosen from the recorded side alone.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.fidelity._sources import Split, splits
from cacherl.recordings import entry_lines
from cacherl.state import State, advance, scoped_in
from cacherl.tool_call import exact_key
from cacherl.tool_spec import Scope, ToolSpec
from cacherl.trajectory import Trajectory
from services.cache_api.event import Event, Track
from services.cache_api.keying import result_digest
from services.cache_api.learning import given_with, specs_for, view_tools
from services.cache_api.learning.effects import annotated
from services.cache_api.learning.observe import of_tracks
from services.cache_api.learning.scopes import learned_scopes
from services.cache_api.learning.traces import traces_of

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def track(trajectory: Trajectory) -> Track:
    """A trajectory as it is recorded."""
    events = [Event(e.call.name, e.call.arguments, e.result.content, e.result.is_error, step=e.step) for e in entry_lines(trajectory)]
    return Track(trajectory.id, trajectory.scenario, trajectory.task_id, events)


def specs_of(trajectories: list[Trajectory]) -> dict[str, ToolSpec]:
    """The tools as a cache first knows them: given hints and words."""
    found = {(spec.name, ""): spec for t in trajectories for spec in t.tools}
    names = {name for name, _ in found} | {call.function.name for t in trajectories for m in t.messages for call in m.tool_calls}
    specs = specs_for(names, found)
    return {tool.spec.name: tool.spec for tool in view_tools(specs, given_with({}, specs.values()))}


def keys(tracks: list[Track], specs: Mapping[str, ToolSpec], scopes: Mapping[str, Scope], *, scenario: bool) -> Iterator[tuple[Any, bytes]]:
    """(full key, result) of each call in order; the key is None where the state is not known."""
    for one in tracks:
        state = State.start("")
        for event in one.events:
            spec = specs.get(event.name)
            past = scoped_in(scopes.get(event.name, Scope.GROUP), state, event.call, spec)
            place = (one.scenario if scenario else "", exact_key(event.name, event.arguments, spec), past)
            yield (place if past is not None and not event.transient else None), result_digest(event.content, event.is_error, spec)
            state = advance(state, event.call, spec, event.outcome, event.result)


def rate(
    recorded: list[Track], replayed: list[Track], specs: Mapping[str, ToolSpec], scopes: Mapping[str, Scope], *, scenario: bool = True
) -> dict[str, Any]:
    """Hits of the replayed calls, and how many are wrong. `scopes`: a tool that is not in it has its group's."""
    store: defaultdict[Any, Counter[bytes]] = defaultdict(Counter)
    for key, result in keys(recorded, specs, scopes, scenario=scenario):
        if key is not None:
            store[key][result] += 1
    calls = hits = wrong = 0
    for key, result in keys(replayed, specs, scopes, scenario=scenario):
        calls += 1
        if found := store.get(key):
            hits += 1
            wrong += max(found, key=lambda digest: (found[digest], digest)) != result
    return {"calls": calls, "hits": hits, "wrong": wrong, "wrong_share": round(wrong / max(1, hits), 5), "right": hits - wrong}


def measured(split: Split) -> dict[str, Any]:
    """One split under each rule."""
    recorded, replayed = list(map(track, split.record)), list(map(track, split.replay))
    known = specs_of(split.record)
    began = time.perf_counter()
    specs = annotated(known, traces_of(recorded, known))
    learned, choice = learned_scopes(of_tracks(recorded, specs))
    took = time.perf_counter() - began
    specs |= {name: spec for name, spec in specs_of(split.replay).items() if name not in specs}
    every = {scope: dict.fromkeys(specs, scope) for scope in Scope}
    rules = {
        "plain key": rate(recorded, replayed, specs, every[Scope.NONE], scenario=False),
        "scenario": rate(recorded, replayed, specs, every[Scope.NONE]),
        "all": rate(recorded, replayed, specs, every[Scope.ALL]),
        "group": rate(recorded, replayed, specs, every[Scope.GROUP]),
        "learned": rate(recorded, replayed, specs, {name: found.scope for name, found in learned.items()}),
    }
    plain = max(1, rules["plain key"]["right"])
    return {
        "split": split.name,
        "required": choice.required,
        "proven": choice.proven,
        "seconds": round(took, 2),
        "scopes": Counter(found.scope.value for found in learned.values()),
        "rules": {name: found | {"right_of_plain": round(found["right"] / plain, 4)} for name, found in rules.items()},
    }


def main() -> int:
    """Prints the table as JSON; the same as text on standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    data = parser.parse_args().data
    if not data.is_dir():
        sys.stderr.write(f"no recordings in {data}\n")
        return 2
    out = []
    for split in splits(data):
        out.append(measured(split))
        one = out[-1]
        sys.stderr.write(f"{one['split']}: {one['required']} comparisons\n")
        for name, found in one["rules"].items():
            hits = f"hits {found['hits']:5d} of {found['calls']}, wrong {found['wrong']:4d} ({found['wrong_share']:.2%})"
            sys.stderr.write(f"  {name:10s} {hits}, right {found['right_of_plain']:.1%} of the plain key's\n")
    print(json.dumps({"splits": out}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
