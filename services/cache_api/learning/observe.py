"""Recorded calls as the learners see them: digests alone, so a hundred thousand take a few megabytes.

An observation says what was called (scenario and exact key), what the past looked like in each scope, what came out, and whose recording
it is. `Observations` keeps them tool by tool. Where they come from does not matter: `of_tracks` reads tracks (a benchmark without a
database), the builder reads stored entries.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cacherl.state import State, advance, scoped_in
from cacherl.tool_call import ToolCall, canonical_arguments
from cacherl.tool_spec import Scope, ToolSpec
from services.cache_api.event import Track
from services.cache_api.keying import result_digest
from services.cache_api.lookup_key import lookup_key

COLUMNS = ("call", "identifier", "group", "all", "result", "source", "task")
MAX_OBSERVATIONS = 200_000
"""Of one tool; more say no more."""
Table = Mapping[str, NDArray[np.uint64]]
"""One tool's observations: `COLUMNS`, each of N digests of 64 bits."""


class Observations:
    """What was recorded, by tool."""

    def __init__(self) -> None:
        self._rows: dict[str, array[int]] = defaultdict(lambda: array("Q"))

    def add(
        self,
        call: ToolCall,
        spec: ToolSpec | None,
        state: State,
        *,
        scenario: str,
        source: str,
        task: str | None,
        result: bytes,
        key: bytes,
    ) -> None:
        """Notes one answered call, made in a state. One whose past is not known says nothing."""
        pasts = [scoped_in(scope, state, call, spec) for scope in (Scope.IDENTIFIER, Scope.GROUP, Scope.ALL)]
        rows = self._rows[call.name]
        if None in pasts or len(rows) >= MAX_OBSERVATIONS * len(COLUMNS):
            return
        rows.append(number(hashlib.blake2b(scenario.encode("utf-8", "surrogatepass") + b"\0" + key, digest_size=8).digest()))
        rows.extend(number(past) for past in pasts if past is not None)
        rows.append(number(result))
        rows.append(named(source))
        rows.append(named(source if task is None else "task " + task))

    @property
    def tools(self) -> list[str]:
        """The tools that were called."""
        return sorted(self._rows)

    def table(self, tool: str) -> Table:
        """One tool's observations, in the order in which they came."""
        rows_NC = np.frombuffer(self._rows[tool], dtype=np.uint64).reshape(-1, len(COLUMNS))
        return {name: np.ascontiguousarray(rows_NC[:, place]) for place, name in enumerate(COLUMNS)}


def of_tracks(tracks: Iterable[Track], specs: Mapping[str, ToolSpec]) -> Observations:
    """The observations of tracks, under the annotations of `specs` (scopes do not matter)."""
    found = Observations()
    for track in tracks:
        state = State.start("")
        for event in track.events:
            spec, call = specs.get(event.name), event.call
            if event.step is not None and not event.transient:
                found.add(
                    call,
                    spec,
                    state,
                    scenario=track.scenario,
                    source=track.source,
                    task=track.task,
                    result=result_digest(event.content, event.is_error, spec),
                    key=lookup_key(event.name, canonical_arguments(event.arguments, spec), spec),
                )
            state = advance(state, call, spec, event.outcome, event.result)
    return found


def tables(found: Observations) -> Iterator[tuple[str, Table]]:
    """(tool, its table), one at a time."""
    for tool in found.tools:
        yield tool, found.table(tool)


def number(digest: bytes) -> int:
    """The first 64 bits of a digest."""
    return int.from_bytes(digest[:8], "little")


@lru_cache(maxsize=16384)
def named(name: str) -> int:
    """64 bits that stand for a name."""
    return number(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
