"""Recordings as columns, to ask them what a tool changes: every call of every history once, and every answered call with its place in them.

Some 150 bytes for each call of the histories. The resource groups and canonical arguments are those of `specs`; which tools mutate is not
decided here, but asked.
"""

import hashlib
from array import array
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cacherl.state import DIGEST_BYTES
from cacherl.tier import CallOutcome
from cacherl.tool_call import exact_key
from cacherl.tool_spec import ToolSpec
from services.cache_api.event import Event, Link, Track, link
from services.cache_api.keying import result_digest
from services.cache_api.learning.observe import named, number

STILL = frozenset({CallOutcome.MALFORMED, CallOutcome.UNKNOWN_TOOL})
Ints = NDArray[np.int64]
Digests = NDArray[np.uint64]


class Traces:
    """Calls and what was seen after them."""

    def __init__(self, specs: Mapping[str, ToolSpec]) -> None:
        self.specs = specs
        self.tools: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self._place: dict[bytes, int] = {}
        self._parent, self._caller, self._digest = array("q"), array("q"), array("Q")
        """Of each call in the histories: the one before it (-1: none), its tool, its digest (0: it can have changed nothing)."""
        self._at, self._asked, self._call, self._result, self._source = array("q"), array("q"), array("Q"), array("Q"), array("Q")
        """Of each answered call: the last call before it (-1: none), its tool, scenario and key, result, source."""

    def add_links(self, links: Iterable[Link]) -> None:
        """Calls of histories; `links` hold every history from its start, in any order."""
        by_id = {one.id: one for one in links}
        for wanted in by_id:
            path: list[Link] = []
            at: bytes | None = wanted
            while at is not None and at not in self._place:
                path.append(by_id[at])
                at = by_id[at].parent
            for one in reversed(path):
                self._add_link(one)

    def _add_link(self, one: Link) -> None:
        moved = one.outcome not in STILL and not one.is_error
        digest = exact_key(one.name, one.arguments, self.specs.get(one.name))[:DIGEST_BYTES] if moved else b""
        self._place[one.id] = len(self._parent)
        self._parent.append(self._place[one.parent] if one.parent is not None else -1)
        self._caller.append(self._tool(one.name))
        self._digest.append(number(digest) or 1 if moved else 0)

    def add(self, event: Event, history: bytes | None, scenario: str, source: str, key: bytes, result: bytes) -> None:
        """An answered call after a history whose links were added; with its exact key and its result's digest."""
        self._at.append(self._place[history] if history is not None else -1)
        self._asked.append(self._tool(event.name))
        self._call.append(number(hashlib.blake2b(scenario.encode("utf-8", "surrogatepass") + b"\0" + key, digest_size=8).digest()))
        self._result.append(number(result))
        self._source.append(named(source))

    def _tool(self, name: str) -> int:
        if name not in self.tools:
            self.tools[name] = len(self.tools)
            spec = self.specs.get(name)
            group = spec.resource_group if spec is not None else name.rpartition(".")[0]
            self.groups[name] = self.groups.get(name, named(group) >> 1)
        return self.tools[name]

    @cached_property
    def columns(self) -> "Columns":
        """All of it, once everything was added."""
        group_T = np.array([self.groups[name] for name in self.tools], dtype=np.int64)
        parent_L = np.array(self._parent, dtype=np.int64)
        return Columns(
            parent_L=parent_L,
            levels=_levels(parent_L),
            caller_L=np.array(self._caller, dtype=np.int64),
            digest_L=np.array(self._digest, dtype=np.uint64),
            at_N=np.array(self._at, dtype=np.int64),
            asked_N=np.array(self._asked, dtype=np.int64),
            call_N=np.array(self._call, dtype=np.uint64),
            result_N=np.array(self._result, dtype=np.uint64),
            source_N=np.array(self._source, dtype=np.uint64),
            group_T=group_T,
        )


class Columns:
    """Suffixes: L calls in histories, N answered calls, T tools."""

    def __init__(
        self,
        *,
        parent_L: Ints,
        levels: list[Ints],
        caller_L: Ints,
        digest_L: Digests,
        at_N: Ints,
        asked_N: Ints,
        call_N: Digests,
        result_N: Digests,
        source_N: Digests,
        group_T: Ints,
    ) -> None:
        self.parent_L, self.levels, self.caller_L, self.digest_L = parent_L, levels, caller_L, digest_L
        self.at_N, self.asked_N, self.call_N, self.result_N, self.source_N = at_N, asked_N, call_N, result_N, source_N
        self.group_T = group_T

    def before(self, tools_T: NDArray[np.bool_]) -> Digests:
        """For each answered call a digest of the calls of these tools before it, in their order; 0 where there was none."""
        mixed_L = np.zeros(len(self.parent_L) + 1, dtype=np.uint64)
        """The last place is the empty history's: a parent of -1 finds it."""
        moves_L = tools_T[self.caller_L] & (self.digest_L != 0)
        for rows in self.levels:
            past = mixed_L[self.parent_L[rows]]
            after = (past * np.uint64(0x9E3779B97F4A7C15)) ^ (self.digest_L[rows] + (past >> np.uint64(29)))
            mixed_L[rows] = np.where(moves_L[rows], after, past)
        return mixed_L[self.at_N]


def traces_of(tracks: Iterable[Track], specs: Mapping[str, ToolSpec]) -> Traces:
    """The traces of tracks."""
    found = Traces(specs)
    for track in tracks:
        before: bytes | None = None
        for event in track.events:
            if event.step is not None and not event.transient:
                spec = specs.get(event.name)
                key, result = exact_key(event.name, event.arguments, spec), result_digest(event.content, event.is_error, spec)
                found.add(event, before, track.scenario, track.source, key, result)
            made = link(before, event)
            found.add_links([made])
            before = made.id
    return found


def _levels(parent_L: Ints) -> list[Ints]:
    """The calls by their number in their history: every call comes after the one before it."""
    depth_L = np.zeros(len(parent_L), dtype=np.int64)
    for place, parent in enumerate(parent_L.tolist()):
        depth_L[place] = depth_L[parent] + 1 if parent >= 0 else 0
    order = np.argsort(depth_L, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(depth_L[order])) + 1) if len(order) else []
