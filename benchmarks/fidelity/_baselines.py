"""The rules of other caches of tool results, each on the same calls: what would it serve, and is that right?

A rule gives every call a key; what was recorded under it answers. Results are compared as ours are. Where a rule needs to know what
mutates, it is told what our cache learned.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from cacherl.fidelity.replayed_call import ReplayedCall
from cacherl.result_digest import result_digest
from cacherl.tool_spec import ToolSpec

Verdict = bool | None
"""Right, wrong, or nothing served."""
Key = Callable[[ReplayedCall], object]


def digest(call: ReplayedCall, specs: Mapping[str, ToolSpec]) -> bytes:
    """Of the recorded true result."""
    return result_digest(call.true.content, call.true.is_error, specs.get(call.call.name))


def tvcache(call: ReplayedCall) -> object:
    """TVCache: per task, the chain of the calls that mutated so far and this call, each as JSON without sorting."""
    return call.task, full_prefix(call)


def full_prefix(call: ReplayedCall) -> object:
    """TVCache's chain without its task: all tasks of one scenario share it."""
    return call.scenario, tuple(_unsorted(item.call.name, item.call.arguments) for item in call.history), unsorted_key(call)


def unsorted_key(call: ReplayedCall) -> object:
    """StableToolBench: tool and arguments in the order in which they were written."""
    return _unsorted(call.call.name, call.call.arguments)


def sorted_key(call: ReplayedCall) -> object:
    """strands-env: tool and arguments, sorted; no scope is given."""
    return json.dumps([call.call.name, call.call.arguments], sort_keys=True)


def _unsorted(name: str, arguments: object) -> str:
    return json.dumps({"tool": name, "arguments": arguments})


RULES: dict[str, Key] = {
    "TVCache (task, full prefix)": tvcache,
    "full prefix, all tasks": full_prefix,
    "strands-env (sorted)": sorted_key,
    "StableToolBench (unsorted)": unsorted_key,
}


def by_key(key: Key, record: Sequence[ReplayedCall], replay: Sequence[ReplayedCall], specs: Mapping[str, ToolSpec]) -> list[Verdict]:
    """The most frequent result under the key answers."""
    stored: dict[object, Counter[bytes]] = defaultdict(Counter)
    for call in record:
        stored[key(call)][digest(call, specs)] += 1
    found = [stored.get(key(call)) for call in replay]
    return [
        max(results, key=lambda d, r=results: (r[d], d)) == digest(call, specs) if results else None
        for results, call in zip(found, replay, strict=True)
    ]


def ordinal(record: Sequence[ReplayedCall], replay: Sequence[ReplayedCall], specs: Mapping[str, ToolSpec]) -> list[Verdict]:
    """VCR.py: one cassette per scenario; each recording of a call is played once in an episode, in order, and then there is none."""
    cassette: dict[object, list[bytes]] = defaultdict(list)
    for call in record:
        cassette[call.scenario, sorted_key(call)].append(digest(call, specs))
    verdicts: list[Verdict] = []
    for call in replay:
        recordings = cassette.get((call.scenario, sorted_key(call)), [])
        verdicts.append(recordings[call.occurrence] == digest(call, specs) if call.occurrence < len(recordings) else None)
    return verdicts
