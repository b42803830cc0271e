"""Which calls of an episode are the reference's calls: the one match that reward and metrics share (method §5, §7).

Two calls match where name and canonical arguments agree (`cacherl.tool_call.exact_key` under the task's schema), in the reference's order:
a longest common subsequence, and among several longest ones that with the earliest calls. A call that never reached the cache (malformed,
unknown tool) matches nothing. How a call was *answered* plays no part, so no tier can move a match.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cacherl.episode import Episode
from cacherl.errors import DataError
from cacherl.tool_call import ToolCall, exact_key
from cacherl.tool_spec import ToolSpec

Key = bytes | None
"""An exact key; None for a call that can match nothing."""


@dataclass(frozen=True, slots=True)
class Match:
    """Reference calls found among the calls made, in order."""

    pairs: tuple[tuple[int, int], ...]
    """(index among the calls made, index among the reference calls), both strictly rising."""
    made: int
    wanted: int

    @property
    def calls(self) -> frozenset[int]:
        """Indices of the calls made that match."""
        return frozenset(call for call, _ in self.pairs)

    @property
    def recall(self) -> float | None:
        """Share of the reference calls that were made in order; None without reference calls."""
        return len(self.pairs) / self.wanted if self.wanted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of recall and precision; None without reference calls."""
        return 2 * len(self.pairs) / (self.made + self.wanted) if self.wanted else None


def keys(calls: Sequence[ToolCall | None], tools: Sequence[ToolSpec]) -> list[Key]:
    """The exact key of each call; None where there is no call or its arguments have no canonical form."""
    specs = {tool.name: tool for tool in tools}
    return [None if call is None else _key(call, specs.get(call.name)) for call in calls]


def _key(call: ToolCall, spec: ToolSpec | None) -> Key:
    try:
        return exact_key(call.name, call.arguments, spec)
    except DataError:
        return None


def reached(episode: Episode) -> list[ToolCall | None]:
    """The episode's calls in order, None for those that never reached the cache."""
    return [call.call if call.outcome.tier is not None else None for call in episode.calls]


def match(made: Sequence[Key], wanted: Sequence[Key]) -> Match:
    """Aligns the keys of the calls made with those of the reference. O(made × wanted)."""
    longest = _longest(made, wanted)
    pairs: list[tuple[int, int]] = []
    start = 0
    for call in range(len(made)):
        # Taking the earliest call that still allows a longest subsequence makes the calls' indices lexicographically least.
        partner = _partner(made[call], wanted, start)
        if partner is not None and 1 + longest[call + 1][partner + 1] == longest[call][start]:
            pairs.append((call, partner))
            start = partner + 1
    return Match(tuple(pairs), len(made), len(wanted))


def _partner(key: Key, wanted: Sequence[Key], start: int) -> int | None:
    """The first place from `start` on where the reference makes this call."""
    if key is None:
        return None
    return next((place for place in range(start, len(wanted)) if wanted[place] == key), None)


def _longest(made: Sequence[Key], wanted: Sequence[Key]) -> list[list[int]]:
    """longest[i][j]: length of a longest common subsequence of made[i:] and wanted[j:]."""
    table = [[0] * (len(wanted) + 1) for _ in range(len(made) + 1)]
    for i in range(len(made) - 1, -1, -1):
        row, below, key = table[i], table[i + 1], made[i]
        for j in range(len(wanted) - 1, -1, -1):
            row[j] = 1 + below[j + 1] if key is not None and key == wanted[j] else max(below[j], row[j + 1])
    return table
