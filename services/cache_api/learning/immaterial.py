"""Which texts never change a tool's result, as the recordings show it (method §3.2): a thought that is noted, the reason for a transfer.

Calls are compared that agree in scenario and in everything but their free texts (`argument.is_text`: never what names a thing). Where they
all had one result, whatever the texts said and whatever came before, over enough different texts *and* tasks, the texts are immaterial:
all of a tool's together, else each by itself. One pair that differs is enough against it. What somebody gave is never touched.

How many are enough is not a constant: what four fifths of the tasks would have called immaterial is held against the fifth left out. From
many to few, it stops where that is contradicted more often than the target allows. Recordings too few to show it take `UNPROVEN`.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cacherl.tool_call import dump_canonical
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import is_text
from services.cache_api.learning.evidence import mixed, rows_of, runs, upper_bound
from services.cache_api.learning.observe import Table, named, number
from services.cache_api.lookup_key import blanked

CANDIDATES = (40, 20, 12, 8)
UNPROVEN = 20
TARGET_FALSE = 0.005
"""Share of wrong results among those that would have been served."""
FOLDS = 5
COLUMNS = ("rest", "text", "result", "task")
ALL = ""
"""Stands for all texts of a call together."""
MAX_ROWS = 200_000


class Shown(NamedTuple):
    """What recordings say of one text, or of all of a tool's."""

    comparisons: int
    """Different texts under equal rest, beyond the first of each."""
    conflicts: int
    """Different results under equal rest, beyond the first of each."""
    tasks: int
    """From which the compared calls are."""

    def holds(self, required: int) -> bool:
        """Whether that many comparisons and tasks are there, and nothing contradicts them."""
        return not self.conflicts and min(self.comparisons, self.tasks) >= required


class Texts:
    """Recorded calls with free texts, as digests."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("Q"))
        self.names: dict[str, set[str]] = defaultdict(set)
        """Arguments that held a text, by tool."""

    def add(
        self, tool: str, canonical: dict[str, Any], spec: ToolSpec | None, *, scenario: str, source: str, task: str | None, result: bytes
    ) -> None:
        """Notes one answered call."""
        found = [name for name, value in canonical.items() if is_text("/" + name, value, spec)]
        self.names[tool].update(found)
        told = number(result), named(source if task is None else "task " + task)
        for which, names in [(ALL, found), *((name, [name]) for name in found if len(found) > 1)]:
            rows = self._rows[tool, which]
            if names and len(rows) < MAX_ROWS * len(COLUMNS):
                rows.append(_digest([scenario, blanked(canonical, names, spec)]))
                rows.append(_digest([canonical[name] for name in names]))
                rows.extend(told)

    def tables(self) -> dict[tuple[str, str], Table]:
        """`COLUMNS` by tool and text (`ALL`: all of them together)."""
        found: dict[tuple[str, str], Table] = {}
        for place, rows in self._rows.items():
            rows_NC = np.frombuffer(rows, dtype=np.uint64).reshape(-1, len(COLUMNS))
            found[place] = {name: np.ascontiguousarray(rows_NC[:, column]) for column, name in enumerate(COLUMNS)}
        return found


@dataclass(frozen=True, slots=True)
class Judged:
    """How many comparisons and tasks are enough, and what each text shows."""

    required: int
    proven: bool
    shown: dict[tuple[str, str], Shown]

    def immaterial(self, tool: str, names: set[str]) -> dict[str, Shown]:
        """The texts of a tool that never matter."""
        together = self.shown.get((tool, ALL))
        if together is not None and together.holds(self.required):
            return dict.fromkeys(sorted(names), together)
        single = {name: self.shown.get((tool, name)) for name in sorted(names)}
        return {name: found for name, found in single.items() if found is not None and found.holds(self.required)}


def judged(tables: Mapping[tuple[str, str], Table]) -> Judged:
    """What the recordings show, and how much is enough."""
    required, proven = enough(tables)
    return Judged(required, proven, {place: shown(table) for place, table in tables.items()})


def shown(table: Table) -> Shown:
    """What a table says."""
    if not len(table["rest"]):
        return Shown(0, 0, 0)
    rest_N, text_N, result_N = table["rest"], table["text"], table["result"]
    rest_T = runs(rest_N, text_N)[0]
    rests_R, texts_R = np.unique(rest_T, return_counts=True)
    _, results_R = np.unique(runs(rest_N, result_N)[0], return_counts=True)
    several = texts_R > 1
    compared_N = np.isin(rest_N, rests_R[several])
    return Shown(int((texts_R - 1).sum()), int((results_R[several] - 1).sum()), len(np.unique(table["task"][compared_N])))


def enough(tables: Mapping[tuple[str, str], Table]) -> tuple[int, bool]:
    """The fewest comparisons and tasks for which what most tasks show holds in the rest; (`UNPROVEN`, False) where nothing shows it."""
    served, wrong = np.zeros(len(CANDIDATES), int), np.zeros(len(CANDIDATES), int)
    for table in tables.values():
        fold_N = table["task"] % np.uint64(FOLDS)
        for fold in range(FOLDS):
            known, asked = rows_of(table, fold_N != fold), rows_of(table, fold_N == fold)
            said = shown(known)
            holding = [place for place, required in enumerate(CANDIDATES) if said.holds(required)]
            if holding and len(asked["rest"]):
                hits, false = _served(known, asked)
                served[holding] += hits
                wrong[holding] += false
    chosen: int | None = None
    for required, hits, false in zip(CANDIDATES, served.tolist(), wrong.tolist(), strict=True):
        if false > TARGET_FALSE * hits:
            break
        if hits:
            chosen = required
    return (UNPROVEN, False) if chosen is None else (chosen, True)


def _served(known: Table, asked: Table) -> tuple[int, int]:
    """(answered, wrongly) of calls whose text was not recorded, by the one result of their rest."""
    rests, results, _, _ = runs(known["rest"], known["result"])
    place = np.minimum(np.searchsorted(rests, asked["rest"]), len(rests) - 1)
    new = ~np.isin(mixed(asked["rest"], asked["text"]), mixed(known["rest"], known["text"]))
    hit = (rests[place] == asked["rest"]) & new
    return int(hit.sum()), int((hit & (results[place] != asked["result"])).sum())


def with_immaterial(specs: Mapping[str, ToolSpec], texts: Texts, given: Collection[str] = ()) -> dict[str, ToolSpec]:
    """The specs with the texts that never matter, and the evidence; tools of which somebody said it (`given`) stay as they are."""
    found = judged(texts.tables())
    out = dict(specs)
    for name, spec in specs.items():
        said = spec.annotations
        shown_ = found.immaterial(name, texts.names[name]) if name in texts.names else {}
        if not shown_ or name in given:
            continue
        proof = {
            "from": "recordings",
            "required": found.required,
            "strength": "strong" if found.proven else "weak",
            "arguments": {
                f"/arguments/{text}": {
                    "comparisons": one.comparisons,
                    "tasks": one.tasks,
                    "conflicts": 0,
                    "upper": round(upper_bound(0, one.tasks), 6),
                }
                for text, one in shown_.items()
            },
        }
        update = {"immaterial": [f"/arguments/{text}" for text in shown_], "inferred": said.inferred | {"immaterial": proof}}
        out[name] = spec.model_copy(update={"annotations": said.model_copy(update=update)})
    return out


def _digest(value: Any) -> int:
    return number(hashlib.blake2b(dump_canonical(value), digest_size=8).digest())
