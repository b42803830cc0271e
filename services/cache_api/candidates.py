"""Candidates from the database: one statement for all the calls of a wave, each different question asked once."""

from collections.abc import Callable, Sequence
from typing import Any

from services.cache_api.ask import Ask
from services.cache_api.embed import Embedder, call_text, embedded
from services.cache_api.store import Row, queries, rows
from services.cache_api.tiers.candidate import Candidate
from services.cache_api.view import View
from services.kit.postgres import AsyncRows

NEAREST = 64
"""How many recorded calls near a call are looked at."""
NEAREST_ROWS = 256
"""Among how many recordings near it they are found: a call that was recorded often takes several places."""
Found = list[list[Candidate]]


class Candidates:
    """What was recorded, as one view shows it at one revision."""

    def __init__(self, connection: AsyncRows, embedder: Embedder, *, view: View, revision: int) -> None:
        self.connection = connection
        self.embedder = embedder
        self.made_by = view.embedder
        self.pins: Row = {"cache": view.cache, "view": view.id, "revision": revision}

    async def rows(self, query: Any, parameters: Row) -> list[Row]:
        """All rows of a statement, in the caller's transaction."""
        return await rows(self.connection, query, parameters)

    async def exact_robust(self, asks: Sequence[Ask]) -> Found:
        """Of the full key."""
        return await self._ask(
            queries.exact_robust,
            asks,
            lambda a: {
                "key": a.key,
                "state": a.scoped_state,
                "scenario": a.item.scenario,
                "excluded": a.excluded,
                "schema_hash": a.schema_hash,
                "not_before": a.not_before,
            },
        )

    async def exact_paper(self, asks: Sequence[Ask]) -> Found:
        """Of tool and arguments."""
        return await self._ask(queries.exact_paper, asks, lambda a: {"key": a.key, "excluded": a.excluded})

    async def near_robust(self, asks: Sequence[Ask]) -> Found:
        """Near calls of equal identity, scenario and scoped state."""
        return await self._ask(
            queries.near_robust,
            asks,
            lambda a: {
                "identity": a.identity,
                "state": a.scoped_state,
                "scenario": a.item.scenario,
                "excluded": a.excluded,
                "schema_hash": a.schema_hash,
                "not_before": a.not_before,
                "embedding": call_text(a.call.name, a.canonical),
            },
        )

    async def near_paper(self, asks: Sequence[Ask], limit: int = NEAREST) -> Found:
        """Near calls of the same tool."""
        return await self._ask(
            queries.near_paper,
            asks,
            lambda a: {"tool": a.call.name, "excluded": a.excluded, "embedding": call_text(a.call.name, a.canonical)},
            limit=limit,
        )

    async def elsewhere(self, asks: Sequence[Ask]) -> list[Row]:
        """For each call, how often it was recorded in other states and scenarios."""
        columns = {
            "key": [a.key for a in asks],
            "scenario": [a.item.scenario for a in asks],
            "excluded": [a.excluded for a in asks],
        }
        found = {r["n"]: r for r in await self.rows(queries.same_call_elsewhere, {**columns, **self.pins})}
        return [found.get(n, {"other_state": 0, "other_scenario": 0}) for n in range(len(asks))]

    async def _ask(self, query: Any, asks: Sequence[Ask], question: Callable[[Ask], Row], limit: int = NEAREST) -> Found:
        """Candidates for each ask; equal questions go once, so the siblings of a group cost what one does."""
        if not asks:
            return []
        numbers: dict[tuple[Any, ...], int] = {}
        distinct: list[Row] = []
        index: list[int] = []
        for one in asks:
            asked = question(one)
            number = numbers.setdefault(tuple(asked.values()), len(distinct))
            if number == len(distinct):
                distinct.append(asked)
            index.append(number)
        columns = {name: [asked[name] for asked in distinct] for name in distinct[0]}
        if "embedding" in columns:
            if self.made_by is None:
                return [[] for _ in asks]  # a cache without vectors: nothing is near
            columns["embedding"] = list(embedded(self.embedder, self.made_by, columns["embedding"]))
        answers: Found = [[] for _ in distinct]
        for found in await self.rows(query, {**columns, **self.pins, "limit": limit, "rows": NEAREST_ROWS}):
            answers[found["n"]].append(_candidate(found))
        return [answers[number] for number in index]


def _candidate(found: Row) -> Candidate:
    return Candidate(
        key=found["key"],
        digest=found["digest"],
        is_error=found["is_error"],
        fresh=found["fresh"],
        schema_agrees=found["schema_agrees"],
        support=found["support"],
        entry=found["entry"],
        source=found["source"],
        step=found["step"],
        recorded_at=found["recorded_at"],
        arguments=found["arguments"],
        result=found["result"],
        distance=found.get("distance", 1.0),
    )
