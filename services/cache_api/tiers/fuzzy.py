"""Fuzzy: the same tool and arguments alike.

`robust` compares free text alone, since its candidates have equal identity, scenario and scoped state, and serves above the threshold that
calibration earned for the tool. `paper` is Jaccard similarity of (argument path, word) pairs above one threshold for all.
"""

from collections.abc import Callable, Iterable
from typing import Any

from cacherl.tool_call import canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import jaccard, likeness, pairs, texts
from services.cache_api.tiers.candidate import Candidate, Match


def robust(arguments: dict[str, Any], spec: ToolSpec | None, candidates: Iterable[Candidate], threshold: float) -> Match | None:
    """The most alike of the recorded calls with equal identity. `arguments` are canonical."""
    asked = texts(arguments, spec)
    return _best(candidates, lambda recorded: likeness(asked, texts(recorded, spec)), spec, threshold)


def paper(arguments: dict[str, Any], spec: ToolSpec | None, candidates: Iterable[Candidate], threshold: float) -> Match | None:
    """The most alike by (argument path, word) pairs. `arguments` are canonical."""
    asked = pairs(arguments)
    return _best(candidates, lambda recorded: jaccard(asked, pairs(recorded)), spec, threshold)


def _best(
    candidates: Iterable[Candidate], measure: Callable[[dict[str, Any]], float], spec: ToolSpec | None, threshold: float
) -> Match | None:
    calls: dict[bytes, list[Candidate]] = {}
    for candidate in candidates:
        calls.setdefault(candidate.key, []).append(candidate)
    alike = {key: measure(canonical_arguments(found[0].recorded_arguments, spec)) for key, found in calls.items()}
    passing = [key for key, similarity in alike.items() if similarity >= threshold]
    if not passing:
        return None
    best = max(passing, key=lambda key: (alike[key], sum(c.support for c in calls[key]), key))
    return Match(tuple(calls[best]), alike[best])
