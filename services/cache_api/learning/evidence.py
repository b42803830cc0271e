"""What a tool's recordings say about each scope. Pure arithmetic over a table of observations.

A scope claims that calls which agree in it have one result, whatever else their pasts differ in. So per scope those recordings are
compared that agree in scenario, call and this scope and differ in the next coarser one: exactly what the scope claims does not matter.
`k` distinct pasts of one call are `k - 1` comparisons; each past counts with its most frequent result, and every past whose result is not
the group's most frequent one is a conflict. Repetitions of one past in several sources are the noise: no scope can be blamed for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from cacherl.tool_spec import Scope
from services.cache_api.learning.observe import Table

CONFIDENCE = 0.95
FINEST_FIRST = (Scope.NONE, Scope.IDENTIFIER, Scope.GROUP)
COARSER = {Scope.NONE: "identifier", Scope.IDENTIFIER: "group", Scope.GROUP: "all"}
MIXER = np.uint64(0x9E3779B97F4A7C15)
Digests = NDArray[np.uint64]


class Compared(NamedTuple):
    """How many pairs were compared and how many of them differed."""

    comparisons: int
    conflicts: int

    @property
    def upper(self) -> float:
        """One-sided 95 % upper bound (Clopper-Pearson) of the share that differs; 1 without comparisons."""
        return upper_bound(self.conflicts, self.comparisons)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one tool."""

    scopes: dict[Scope, Compared]
    noise: Compared

    def holds(self, scope: Scope) -> bool:
        """Whether nothing speaks against a scope: no conflicts in it nor in a coarser one beyond what repetitions of one past show."""
        coarser = FINEST_FIRST[FINEST_FIRST.index(scope) :]
        return all(self._quiet(self.scopes[one]) for one in coarser)

    def _quiet(self, found: Compared) -> bool:
        if not found.conflicts:
            return True
        noise = self.noise.conflicts / self.noise.comparisons if self.noise.comparisons else 0.0
        return found.conflicts <= noise * found.comparisons

    def choose(self, required: int) -> Scope:
        """The finest scope that at least `required` comparisons support and nothing contradicts; else the group, else everything."""
        for scope in (Scope.NONE, Scope.IDENTIFIER):
            if self.scopes[scope].comparisons >= required and self.holds(scope):
                return scope
        return Scope.GROUP if self.holds(Scope.GROUP) else Scope.ALL


def evidence_of(table: Table) -> Evidence:
    """What a tool's observations say."""
    found: dict[Scope, Compared] = {}
    for scope in FINEST_FIRST:
        same = agreeing(table, scope)
        found[scope] = compared(same, mixed(same, table[COARSER[scope]]), table["result"])
    whole = agreeing(table, Scope.ALL)
    return Evidence(found, compared(whole, mixed(whole, table["source"]), table["result"]))


def agreeing(table: Table, scope: Scope) -> Digests:
    """One number per observation: equal where scenario, call and scope agree."""
    return table["call"] if scope is Scope.NONE else mixed(table["call"], table[scope.value])


def mixed(left: Digests, right: Digests) -> Digests:
    """One digest of two."""
    return (left * MIXER) ^ (right + (left >> np.uint64(31)))


def compared(group_N: Digests, cell_N: Digests, result_N: Digests) -> Compared:
    """Cells of one group against one another, each by its most frequent result. A cell lies in one group."""
    if len(group_N) < 2:
        return Compared(0, 0)
    _, results_C, first_C = most_frequent(cell_N, result_N)
    groups_G, _, _, support_G = runs(group_N[first_C], results_C)
    total_G, most_G = totals(groups_G, support_G)
    return Compared(int(total_G.sum() - len(total_G)), int((total_G - most_G).sum()))


def runs(key_N: Digests, value_N: Digests) -> tuple[Digests, Digests, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct (key, value) pairs, sorted: keys, values, the place of the first of each, and how often each stands."""
    order_N = np.lexsort((value_N, key_N))
    keys, values = key_N[order_N], value_N[order_N]
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]) | (values[1:] != values[:-1])])
    return keys[starts], values[starts], order_N[starts], np.diff(np.r_[starts, len(keys)])


def most_frequent(key_N: Digests, value_N: Digests) -> tuple[Digests, Digests, NDArray[np.int64]]:
    """Distinct keys, each with its most frequent value (of several the greatest, as a lookup chooses) and the place of one such row."""
    keys, values, first, support = runs(key_N, value_N)
    order = np.lexsort((values, support, keys))
    keys, values, first = keys[order], values[order], first[order]
    last = np.flatnonzero(np.r_[keys[1:] != keys[:-1], True])
    return keys[last], values[last], first[last]


def totals(keys: Digests, support: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of sorted keys: the sum and the greatest of the supports of each distinct one."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return np.add.reduceat(support, starts), np.maximum.reduceat(support, starts)


@lru_cache(maxsize=65536)
def upper_bound(bad: int, number: int) -> float:
    """One-sided 95 % upper bound of a share; with none bad about 3 / number."""
    return float(betaincinv(bad + 1, number - bad, CONFIDENCE)) if number > bad else 1.0


def rows_of(table: Table, chosen_N: NDArray[np.bool_] | Sequence[int]) -> Table:
    """Some rows of a table."""
    return {name: column_N[chosen_N] for name, column_N in table.items()}
