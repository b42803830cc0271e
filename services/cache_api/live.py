"""Mode `record`: every call goes to the cache's live tool server, and every answer is stored before it is given.

A server is a name in the service's configuration, never a caller's URL. An episode has one session there and one source here
(`run/task/episode`; a repetition of a recorded episode is a source of its own, `…~2`), its calls go in order, and what comes back is
exact by definition. If an answer cannot be stored the request fails: a recording is never lost in silence. Arguments go to the server as
they are, and into the store without secrets.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic_core import to_json

from cacherl.api.cache import LookupItem, LookupRequest
from cacherl.errors import ConflictError, InputError
from cacherl.state import State, advance
from cacherl.tier import CallOutcome, ToolResult
from services.cache_api import store
from services.cache_api.ask import Ask, ask, excluded_json
from services.cache_api.event import Event, Track
from services.cache_api.lookup import MISS_MARK, Pins, no_answer, start
from services.cache_api.parts import Parts
from services.cache_api.reading import Reader
from services.cache_api.store import Row, queries
from services.kit.identifiers import new_id

MAX_ATTEMPTS = 9


@dataclass
class LiveTurn:
    """One item: the calls before it, those that it makes, and their answers."""

    item: LookupItem
    source: str
    past: list[Event]
    step: int
    state: State
    asks: list[Ask] = field(default_factory=list)
    made: list[Event] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)


class LiveLookup:
    """Answers one request in mode `record`."""

    def __init__(self, parts: Parts, tenant: str, pins: Pins, request: LookupRequest) -> None:
        self.parts, self.tenant, self.pins, self.request = parts, tenant, pins, request
        self.reader = Reader(parts.redactor, {name: tool.spec for name, tool in pins.view.tools.items()})
        self.asked: list[Ask] = []

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item. Errors: InputError where an item lacks what a live call needs, LiveToolError, ConflictError."""
        server = self.pins.settings.live_server
        if server is None or server not in self.parts.live.urls:
            raise ConflictError("This cache has no live server in the service's configuration.", slug="no-live-server")
        turns = await self._turns()
        for turn in turns:
            self._ask(turn)
        calls = [(turn, one) for turn in turns for one in turn.asks if one.malformed is None]
        results = await self.parts.live.call(server, [_live_call(turn.item, one) for turn, one in calls]) if calls else []
        now = datetime.now(UTC)
        by_ask = {id(one): result for (_, one), result in zip(calls, results, strict=True)}
        for turn in turns:
            self._take(turn, by_ask, now)
        if calls:
            # Once the calls are made, what they gave is stored even if the caller goes away.
            await asyncio.shield(asyncio.ensure_future(self._store(turns)))
        return [{"state": turn.state.token, "results": turn.answers} for turn in turns]

    async def _turns(self) -> list[LiveTurn]:
        sources = [_source(self.request, item, number) for number, item in enumerate(self.request.items)]
        if len(set(sources)) != len(sources):
            raise InputError("Two items of a live request belong to one episode: send its turns one after the other.", slug="episode-twice")
        wanted = [name for source in sources for name in _attempts(source)]
        async with self.parts.database.tenant(self.tenant) as connection:
            rows = await store.rows(connection, queries.sources_of_episode, {"cache": self.pins.cache, "sources": wanted})
        recorded: dict[str, list[Row]] = {}
        for row in rows:
            recorded.setdefault(row["source"], []).append(row)
        return [self._turn(item, source, recorded, n) for n, (item, source) in enumerate(zip(self.request.items, sources, strict=True))]

    def _turn(self, item: LookupItem, base: str, recorded: Mapping[str, list[Row]], number: int) -> LiveTurn:
        known = [name for name in _attempts(base) if name in recorded]
        first = item.state is None and not item.history
        if first and len(known) == MAX_ATTEMPTS:
            raise ConflictError(f"The episode {base} was recorded {MAX_ATTEMPTS} times already.", slug="episode-recorded")
        source = _attempts(base)[len(known)] if first or not known else known[-1]
        if item.history is not None:
            past = [self.reader.event(h.call.name, h.call.arguments, h.result, h.outcome) for h in item.history]
            return LiveTurn(item, source, past, len(past), start(item, self.pins, self.parts.redactor))
        if not first and not known:
            errors = [{"pointer": f"/items/{number}/history", "detail": "the calls before this turn, since none of them was recorded here"}]
            raise InputError("A live turn needs the history of an episode that was not live so far.", errors=errors, slug="history-needed")
        rows = [] if first else recorded[source]
        past = [Event(row["tool"], row["arguments"], row["result"], row["is_error"]) for row in rows]
        step = rows[-1]["step"] + 1 if rows else 0
        return LiveTurn(item, source, past, step, start(item, self.pins, self.parts.redactor))

    def _ask(self, turn: LiveTurn) -> None:
        pins, excluded = self.pins, excluded_json(turn.item)
        for call in turn.item.calls:
            turn.asks.append(ask(call, turn.item, excluded, turn.state, pins.view, pins.revision, pins.as_of, self.parts.redactor))
        self.asked += turn.asks

    def _take(self, turn: LiveTurn, results: Mapping[int, ToolResult], now: datetime) -> None:
        for one in turn.asks:
            result = results.get(id(one))
            if result is None:
                text = f"{MISS_MARK} {one.call.name}: {one.reason()}."
                turn.answers.append(no_answer(one, CallOutcome.MALFORMED, text))
                continue
            clean = ToolResult(content=self.parts.redactor.value(result.content), is_error=result.is_error)
            event = Event(one.call.name, one.arguments, clean.content, clean.is_error, step=turn.step, recorded_at=now)
            event.schema_hash = one.schema_hash
            turn.step += 1
            turn.made.append(event)
            turn.state = advance(turn.state, one.stated, one.spec, CallOutcome.EXACT, clean)
            turn.answers.append(_served(turn, one, result, event))

    async def _store(self, turns: Sequence[LiveTurn]) -> None:
        tracks = [
            Track(turn.source, turn.item.scenario, turn.item.draw.task if turn.item.draw else None, [*turn.past, *turn.made])
            for turn in turns
            if turn.made
        ]
        stored = await self.parts.recorder.store(self.tenant, self.pins.cache, tracks, new_id("bat"))
        if stored["refused_total"]:
            raise ConflictError("Another call was recorded at this place of the episode.", slug="recorded-otherwise")
        made = [(turn.source, event.step) for turn in turns for event in turn.made]
        async with self.parts.database.tenant(self.tenant) as connection:
            sources, steps = [source for source, _ in made], [step for _, step in made]
            rows = await store.rows(connection, queries.entries_at, {"cache": self.pins.cache, "source": sources, "step": steps})
        names = {(sources[row["n"]], steps[row["n"]]): row["id"] for row in rows}
        for turn in turns:
            for answer in turn.answers:
                if answer["entry"] is not None:
                    answer["entry"]["id"] = names[turn.source, answer["entry"]["step"]]


def _attempts(source: str) -> list[str]:
    return [source, *(f"{source}~{number}" for number in range(2, MAX_ATTEMPTS + 1))]


def _source(request: LookupRequest, item: LookupItem, number: int) -> str:
    """`run/task/episode`. Errors: InputError `episode-needed` where an item does not say which episode it belongs to."""
    missing = [
        {"pointer": pointer, "detail": "needed in mode `record`"}
        for pointer, given in (("/run", request.run), (f"/items/{number}/draw", item.draw), (f"/items/{number}/session", item.session))
        if not given
    ]
    if missing or item.draw is None:
        raise InputError("A live call belongs to an episode: a run, a task, a number and a session.", errors=missing, slug="episode-needed")
    source = f"{request.run}/{item.draw.task}/{item.draw.episode}"
    if "\0" in source or "\0" in item.scenario:
        raise InputError("The text holds a character that cannot be stored.", slug="unstorable-text")
    return source


def _live_call(item: LookupItem, one: Ask) -> dict[str, Any]:
    return {"session": item.session, "scenario": item.scenario, "name": one.call.name, "arguments": one.call.arguments}


def _served(turn: LiveTurn, one: Ask, result: ToolResult, event: Event) -> dict[str, Any]:
    return {
        "outcome": CallOutcome.EXACT.value,
        "result": {"content": orjson.Fragment(to_json(result.content)), "is_error": result.is_error},
        "similarity": 1.0,
        "fidelity": 1.0,
        "entry": {"id": "", "source": turn.source, "step": event.step, "recorded_at": event.recorded_at},
        "agreement": {"scenario": True, "state": True, "schema": True},
        "mutating": one.moves,
        "age_s": 0.0,
        "live": True,
        "explain": None,
    }
