"""Leave-one-task-out replay: what would each recorded call be answered, had its own task never been recorded?

Trials and model variants of a task leave together; where a scenario belongs to one task alone, that would leave nothing, so the call's own
source leaves instead and the result says `within_task`. What is served is compared with what was recorded. A call counts as misled, too,
by the most alike call that had another result: a policy asks what nobody asked before, and must not get an old answer to a new question,
so what would be served had nothing right been recorded counts as well.

Bounded memory: a tool's calls are drawn by whole tasks, recordings come grouped and in the order of their places, and of a place no more
is kept at once than its distinct calls. The same recordings give the same replay, in whatever pages they come.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cacherl.tool_call import canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import likeness, texts
from services.cache_api.candidates import NEAREST
from services.cache_api.embed import Embedder, call_text

VECTORS_AT_ONCE = 2_048
Place = tuple[bytes, bytes, str]
"""What any match agrees in: identity, scoped state, scenario."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that is replayed, as a view sees it."""

    key: bytes
    identity: bytes
    scoped_state: bytes | None
    """None: the state before it is not known, and nothing answers it."""
    scenario: str
    source: str
    task: str
    digest: bytes
    arguments: dict[str, Any]

    @property
    def place(self) -> Place:
        """Where its neighbours are."""
        assert self.scoped_state is not None
        return self.identity, self.scoped_state, self.scenario


@dataclass(frozen=True, slots=True)
class Kept:
    """Equal recordings of one call: how many gave one result."""

    place: Place
    key: bytes
    digest: bytes
    support: int
    arguments: dict[str, Any]
    """Of one of them."""


@dataclass(slots=True)
class Replayed:
    """What would be served for one call."""

    task: str
    within_task: bool = False
    exact: bool | None = None
    """Whether the exact answer is right; None: there is none."""
    similarity: float | None = None
    """Of the most alike call, where no exact answer is."""
    fuzzy: bool | None = None
    """Whether that one's answer is right."""
    misled: float = 0.0
    """Similarity of the most alike call that had another result."""
    cosine: float | None = None
    """Of the nearest call, where no exact answer is."""
    nearest: bool | None = None
    """Whether that one's answer is right."""
    astray: float = -1.0
    """Cosine of the nearest call that had another result."""


@dataclass(slots=True)
class ToolReplay:
    """All replayed calls of one tool."""

    tool: str
    pool: str
    calls: list[Replayed]
    cut: bytes | None = None
    """Where not all tasks were drawn: the last one's place in the draw (`draw_order`)."""


@dataclass
class _Neighbour:
    """One recorded call of a place: its results and its texts."""

    results: Counter[bytes]
    texts: dict[str, str]


@dataclass
class _Near:
    """The nearest recorded calls of one replayed call, best first."""

    found: list[tuple[float, bytes]] = field(default_factory=list)

    def take(self, cosines: NDArray[np.float32], keys: Sequence[bytes]) -> None:
        """Merges more of them."""
        best = np.argsort(-cosines, kind="stable")[:NEAREST] if len(keys) > NEAREST else np.arange(len(keys))
        more = [(-float(cosines[index]), keys[index]) for index in map(int, best) if cosines[index] > -2]
        self.found = sorted([*self.found, *more])[:NEAREST]


class Replayer:
    """Replays drawn calls of one tool against all that was recorded of it."""

    def __init__(
        self, tool: str, drawn: Sequence[Recorded], spec: ToolSpec | None, tasks_of: Mapping[str, int], embedder: Embedder
    ) -> None:
        self.tool, self.spec, self.embedder = tool, spec, embedder
        self.calls = [Replayed(row.task, within_task=tasks_of.get(row.scenario, 1) <= 1) for row in drawn]
        self.drawn = drawn
        self._at: dict[Place, list[int]] = defaultdict(list)
        self._own: dict[tuple[Place, str], Counter[tuple[bytes, bytes]]] = defaultdict(Counter)
        for number, row in enumerate(drawn):
            if row.scoped_state is not None:
                self._at[row.place].append(number)
                self._own[row.place, self._leaving(number)][row.key, row.digest] += 1

    @property
    def places(self) -> list[Place]:
        """Where recordings are wanted from, in order."""
        return sorted(self._at)

    def _leaving(self, number: int) -> str:
        """What leaves with a call: its source or its task."""
        row = self.drawn[number]
        return f"source {row.source}" if self.calls[number].within_task else f"task {row.task}"

    def take(self, kept: Iterable[Kept]) -> None:
        """Replays the calls of some places; `kept` holds all recordings of each, together."""
        for place, found in groupby(kept, key=lambda one: one.place):
            self._place(place, found)

    def _place(self, place: Place, found: Iterable[Kept]) -> None:
        neighbours: dict[bytes, _Neighbour] = {}
        told: dict[bytes, str] = {}
        for one in found:
            if one.key not in neighbours:
                canonical = canonical_arguments(one.arguments, self.spec)
                neighbours[one.key] = _Neighbour(Counter(), texts(canonical, self.spec))
                told[one.key] = call_text(self.tool, canonical)
            neighbours[one.key].results[one.digest] += one.support
        self._exact(place, neighbours)
        if len(neighbours) > 1:
            self._nearby(place, neighbours, told)

    def _exact(self, place: Place, neighbours: Mapping[bytes, _Neighbour]) -> None:
        for number in self._at[place]:
            row = self.drawn[number]
            left = self._left(place, number, row.key, neighbours[row.key]) if row.key in neighbours else None
            if left:
                self.calls[number].exact = majority(left) == row.digest

    def _left(self, place: Place, number: int, key: bytes, neighbour: _Neighbour) -> Counter[bytes]:
        """The results of a recorded call without those that leave."""
        own = self._own[place, self._leaving(number)]
        return +Counter({digest: support - own[key, digest] for digest, support in neighbour.results.items()})

    def _nearby(self, place: Place, neighbours: dict[bytes, _Neighbour], told: Mapping[bytes, str]) -> None:
        keys = sorted(neighbours)
        numbers = self._at[place]
        asked = sorted({self.drawn[number].key for number in numbers} & neighbours.keys())
        where = {key: index for index, key in enumerate(asked)}
        asked_ND = self.embedder.vectors([told[key] for key in asked])
        near = {number: _Near() for number in numbers if self.drawn[number].key in where}
        for block in _blocks(keys):
            cosines_NB = asked_ND @ self.embedder.vectors([told[key] for key in block]).T
            at = {key: index for index, key in enumerate(block)}
            for number, found in near.items():
                cosines_B = cosines_NB[where[self.drawn[number].key]]
                gone = [at[key] for key in self._gone(place, number, neighbours) if key in at]
                if gone:
                    cosines_B = cosines_B.copy()
                    cosines_B[gone] = -3
                found.take(cosines_B, block)
        for number, found in near.items():
            if found.found:
                self._compare(place, number, found.found, neighbours)

    def _gone(self, place: Place, number: int, neighbours: Mapping[bytes, _Neighbour]) -> set[bytes]:
        """The recorded calls that are no neighbours: the call itself, and those of which nothing is left."""
        mine = {key for key, _ in self._own[place, self._leaving(number)]}
        return {self.drawn[number].key} | {key for key in mine if key in neighbours and not self._left(place, number, key, neighbours[key])}

    def _compare(self, place: Place, number: int, near: list[tuple[float, bytes]], neighbours: Mapping[bytes, _Neighbour]) -> None:
        row, call = self.drawn[number], self.calls[number]
        asked = neighbours[row.key].texts
        left = {key: self._left(place, number, key, neighbours[key]) for _, key in near}
        alike = {key: likeness(asked, neighbours[key].texts) for _, key in near}
        right = {key: majority(left[key]) == row.digest for _, key in near}
        call.misled = max((alike[key] for _, key in near if not right[key]), default=0.0)
        call.astray = max((-distance for distance, key in near if not right[key]), default=-1.0)
        if call.exact is None:
            best = max(left, key=lambda key: (alike[key], left[key].total(), key))
            call.similarity, call.fuzzy = alike[best], right[best]
            call.cosine, call.nearest = -near[0][0], right[near[0][1]]


def _blocks(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + VECTORS_AT_ONCE] for start in range(0, len(keys), VECTORS_AT_ONCE))


def majority(results: Mapping[bytes, int]) -> bytes:
    """The best supported result, as a lookup chooses it."""
    return max(results, key=lambda digest: (results[digest], digest))
