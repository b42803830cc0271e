"""Which texts never change a tool's result, as the recordings show it (method §3.2): a thought that is noted, the reason for a transfer.

Calls are compared that agree in scenario and in everything but their free texts (`argument.is_text`: never what names a thing). Where they
all had one result, whatever the texts said and whatever came before, over enough different texts *and* tasks, the texts are immaterial:
all of a tool's together (each of those that varied enough), else the one that shows most by itself; never two of which only each alone is
uncontradicted. One pair that differs is enough against it. A task counts once, and only if it brought a text that no task before it had.
Most of a text's recordings must be sentences: recordings ask for what exists, so short ones that all succeed (`Team lunch`, to be deleted)
may be names, and another name would fail. What somebody gave is never touched.

How many are enough is not a constant: what four fifths of the tasks would have called immaterial is held against the fifth left out. From
many to few, it stops where that is contradicted more often than the target allows. Where no call was replayed it is `UNPROVEN`. The
evidence is `strong` only where so many were that one more that is wrong would still keep the target.
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
from services.cache_api.argument import MIN_WORDS_UNNAMED, is_text, words_of
from services.cache_api.learning.evidence import mixed, rows_of, runs, upper_bound
from services.cache_api.learning.observe import Table, named, number
from services.cache_api.lookup_key import blanked

CANDIDATES = (40, 20, 12, 8)
UNPROVEN = 20
TARGET_FALSE = 0.005
"""Share of wrong results among those that would have been served."""
FOLDS = 5
COLUMNS = ("rest", "together", "text", "result", "task")
"""Digests of: all but the text; all but every text of the call; the text; what came out; whose call it is."""
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
    """That brought a text of their own to what is compared."""

    def holds(self, required: int) -> bool:
        """Whether that many comparisons and tasks are there, and nothing contradicts them."""
        return not self.conflicts and min(self.comparisons, self.tasks) >= required


class Texts:
    """Recorded calls with free texts, as digests."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("Q"))
        self._sentences: dict[tuple[str, str], int] = defaultdict(int)
        """How many recordings of a text are longer than a name, less those that are not."""

    def add(
        self, tool: str, canonical: dict[str, Any], spec: ToolSpec | None, *, scenario: str, source: str, task: str | None, result: bytes
    ) -> None:
        """Notes one answered call."""
        found = [name for name, value in canonical.items() if is_text("/" + name, value, spec)]
        told = number(result), named(source if task is None else "task " + task)
        if not found:
            return
        for name in found:
            self._sentences[tool, name] += 1 if len(words_of(canonical[name])) >= MIN_WORDS_UNNAMED else -1
        together = _digest([scenario, blanked(canonical, found, spec)])
        for which, names in [(ALL, found), *((name, [name]) for name in found)]:
            rows = self._rows[tool, which]
            if len(rows) < MAX_ROWS * len(COLUMNS):
                rows.append(together if len(names) == len(found) else _digest([scenario, blanked(canonical, names, spec)]))
                rows.append(together)
                rows.append(_digest([canonical[name] for name in names]))
                rows.extend(told)

    def tables(self) -> dict[str, "Tables"]:
        """By tool, without the texts that may be names."""
        found: dict[str, Tables] = defaultdict(dict)
        for (tool, which), rows in self._rows.items():
            if which != ALL and self._sentences[tool, which] < 0:
                continue
            rows_NC = np.frombuffer(rows, dtype=np.uint64).reshape(-1, len(COLUMNS))
            found[tool][which] = {name: np.ascontiguousarray(rows_NC[:, column]) for column, name in enumerate(COLUMNS)}
        return found


Tables = dict[str, Table]
"""One tool's `COLUMNS` by text; `ALL`: all of them together."""


class Enough(NamedTuple):
    """How many comparisons and tasks are enough, and how many replayed calls say so."""

    required: int
    served: int
    wrong: int

    @property
    def proven(self) -> bool:
        """Whether so many were replayed that one more that is wrong would keep the target."""
        return (self.wrong + 1) / (self.served + 2) <= TARGET_FALSE


@dataclass(frozen=True, slots=True)
class Judged:
    """How much is enough, and what is held against it."""

    enough: Enough
    tables: Mapping[str, Tables]

    def immaterial(self, tool: str) -> dict[str, Shown]:
        """The texts of a tool that never matter, each with what it shows."""
        tables, required = self.tables.get(tool), self.enough.required
        if tables is None:
            return {}
        which, found = best(tables)
        if not found.holds(required):
            return {}
        if which != ALL:
            return {which: found}
        each = {name: shown(table, "together") for name, table in sorted(tables.items()) if name != ALL}
        return {name: one for name, one in each.items() if one.holds(required)}


def judged(tables: Mapping[str, Tables]) -> Judged:
    """What the recordings show, and how much is enough."""
    return Judged(enough(tables), tables)


def best(tables: Tables) -> tuple[str, Shown]:
    """What of a tool may be left out, if anything: all of its texts where nothing contradicts that, else the one that shows most."""
    together = shown(tables[ALL])
    if not together.conflicts:
        return ALL, together
    single = [(name, shown(table)) for name, table in sorted(tables.items()) if name != ALL]
    quiet = [(name, found) for name, found in single if not found.conflicts]
    return max(quiet, key=lambda one: min(one[1].comparisons, one[1].tasks), default=(ALL, together))


def shown(table: Table, rest: str = "rest") -> Shown:
    """What a table says of a text; `rest`: which of its columns must agree."""
    rest_N, text_N, result_N = table[rest], table["text"], table["result"]
    if not len(rest_N):
        return Shown(0, 0, 0)
    rest_T, _, first_T, _ = runs(rest_N, text_N)
    rests_R, texts_R = np.unique(rest_T, return_counts=True)
    _, results_R = np.unique(runs(rest_N, result_N)[0], return_counts=True)
    several = texts_R > 1
    brought_T = np.isin(rest_T, rests_R[several])
    tasks = len(np.unique(table["task"][first_T[brought_T]]))
    return Shown(int((texts_R - 1).sum()), int((results_R[several] - 1).sum()), tasks)


def enough(tables: Mapping[str, Tables]) -> Enough:
    """The fewest comparisons and tasks for which what most tasks show holds in the rest; `UNPROVEN` where nothing shows it."""
    served, wrong = np.zeros(len(CANDIDATES), int), np.zeros(len(CANDIDATES), int)
    for tool in tables.values():
        for fold in range(FOLDS):
            known = {which: rows_of(table, table["task"] % np.uint64(FOLDS) != fold) for which, table in tool.items()}
            which, said = best(known)
            asked = rows_of(tool[which], tool[which]["task"] % np.uint64(FOLDS) == fold)
            holding = [place for place, required in enumerate(CANDIDATES) if said.holds(required)]
            if holding and len(asked["rest"]):
                hits, false = _served(known[which], asked)
                served[holding] += hits
                wrong[holding] += false
    chosen: Enough | None = None
    for told in map(Enough, CANDIDATES, served.tolist(), wrong.tolist()):
        if told.wrong > TARGET_FALSE * told.served:
            break
        if told.served:
            chosen = told
    return chosen or Enough(UNPROVEN, 0, 0)


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
        told = name in given or (said.immaterial and "immaterial" not in said.inferred)
        shown_ = {} if told else found.immaterial(name)
        if not shown_:
            continue
        proof = {
            "from": "recordings",
            "required": found.enough.required,
            "replayed": {"served": found.enough.served, "wrong": found.enough.wrong},
            "strength": "strong" if found.enough.proven else "weak",
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
