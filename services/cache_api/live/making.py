"""From live results to answers and rows: each moves its turn's state and place, and becomes one row of the store."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from pydantic_core import to_json

from cacherl.errors import ConflictError
from cacherl.result_digest import result_digest
from cacherl.state import advance, scoped
from cacherl.tier import CallOutcome, ToolResult
from services.cache_api import store
from services.cache_api.ask import Ask
from services.cache_api.embed import call_text
from services.cache_api.event import Event, Track, content_hash, link
from services.cache_api.keying import KeyRow
from services.cache_api.live.turn import LiveTurn, recorded_past
from services.cache_api.live.writing import Place, Row
from services.cache_api.lookup import Pins
from services.cache_api.parts import Parts
from services.cache_api.record import entry_ids
from services.cache_api.spool import key_columns
from services.cache_api.store import queries
from services.kit.identifiers import new_id
from services.kit.postgres import AsyncRows


class Maker:
    """Takes the live results of one request, and stores them."""

    def __init__(self, parts: Parts, tenant: str, pins: Pins) -> None:
        self.parts, self.tenant, self.pins = parts, tenant, pins
        self._ids = entry_ids()

    def take(self, turn: LiveTurn, one: Ask, result: ToolResult, now: datetime) -> dict[str, Any]:
        """Notes a live result in its turn; the answer, whose entry has no id until it is stored."""
        content = self.parts.redactor.value(result.content)
        clean = ToolResult.model_construct(content=content, is_error=result.is_error)
        event = Event(one.call.name, one.arguments, content, result.is_error, step=turn.position.step, recorded_at=now)
        event.schema_hash = one.schema_hash
        one.live = True
        made = link(turn.position.parent, event)
        turn.rows.append(self._row(turn, one, event, now))
        turn.links.append(made)
        turn.made.append(event)
        before, turn.state = turn.state, advance(turn.state, one.stated, one.spec, CallOutcome.EXACT, clean)
        turn.position = turn.position.after(made.id, before, turn.state, known=one.tool is not None)
        return _served(turn, one, result, event)

    def _row(self, turn: LiveTurn, one: Ask, event: Event, now: datetime) -> Row:
        assert event.step is not None
        return Row(
            id=next(self._ids),
            tool=event.name,
            arguments=to_json(event.arguments).decode(),
            result=to_json(event.content).decode(),
            is_error=event.is_error,
            scenario=turn.item.scenario,
            source=turn.source,
            step=event.step,
            task=turn.item.draw.task if turn.item.draw else None,
            history=turn.position.parent,
            schema_hash=event.schema_hash,
            content_hash=content_hash(event, turn.item.scenario),
            recorded_at=now,
            key=one.key,
            identity=one.identity,
            scoped_state=scoped(turn.state, one.stated, one.spec),
            result_digest=result_digest(event.content, event.is_error, one.spec),
            transient=event.transient,
            text=call_text(event.name, one.canonical),
        )

    async def store(self, turns: Sequence[LiveTurn]) -> None:
        """Stores what turns made since they were stored last, and gives their answers the entries' names.

        Errors: ConflictError `recorded-otherwise`.
        """
        fresh = [turn for turn in turns if turn.rows]
        ahead = [turn for turn in fresh if self._keyed_ahead(turn)]
        ids = await self._ahead(ahead) if ahead else {}
        if ids is None:
            ids, ahead = {}, []
        anew = [turn for turn in fresh if turn not in ahead]
        if anew:
            ids |= await self._anew(anew)
        for turn in fresh:
            for answer in turn.answers:
                entry = answer["entry"]
                if entry is not None and not entry["id"]:
                    entry["id"] = ids[turn.source, entry["step"]]
            turn.rows.clear()
            turn.links.clear()

    def _keyed_ahead(self, turn: LiveTurn) -> bool:
        """Whether the keys made on the way are those that the recorder would make: all of it is read as the view reads it by now."""
        view = self.pins.view
        if view.covers_through is not None or any(tool.since > self.pins.revision for tool in view.tools.values()):
            return False
        return turn.position.known

    async def _ahead(self, turns: Sequence[LiveTurn]) -> dict[tuple[str, int], str] | None:
        view = self.pins.view
        place = Place(self.tenant, self.pins.cache, view.id, view.version, view.embedder)
        rows = [row for turn in turns for row in turn.rows]
        ids = await self.parts.live_writer.store(place, rows, [one for turn in turns for one in turn.links])
        return {(row.source, row.step): name for row, name in zip(rows, ids, strict=True)} if ids is not None else None

    async def _anew(self, turns: Sequence[LiveTurn]) -> dict[tuple[str, int], str]:
        """Through the recorder, from the start of each episode: under another view than that of the request, or with new tools."""
        cache = self.pins.cache
        async with self.parts.database.tenant(self.tenant) as connection:
            rows = await store.rows(connection, queries.sources_of_episode, {"cache": cache, "sources": [turn.source for turn in turns]})
        tracks: list[Track] = []
        for turn in turns:
            first = turn.made[0].step or 0
            stored_before = [row for row in rows if row["source"] == turn.source and row["step"] < first]
            past = turn.past if turn.past is not None else recorded_past(stored_before)
            tracks.append(Track(turn.source, turn.item.scenario, turn.item.draw.task if turn.item.draw else None, [*past, *turn.made]))
        stored = await self.parts.recorder.store(self.tenant, cache, tracks, new_id("bat"))
        if stored["refused_total"]:
            raise ConflictError("Another call was recorded at this place of the episode.", slug="recorded-otherwise")
        made = [(turn.source, event.step) for turn in turns for event in turn.made]
        sources, steps = [source for source, _ in made], [step for _, step in made]
        async with self.parts.database.tenant(self.tenant) as connection:
            found = await store.rows(connection, queries.entries_at, {"cache": cache, "source": sources, "step": steps})
            ids = {made[row["n"]]: row["id"] for row in found}
            await self._keep_visible(connection, turns, ids, stored["revision"])
        return ids

    async def _keep_visible(self, connection: AsyncRows, turns: Sequence[LiveTurn], ids: dict[tuple[str, int], str], revision: int) -> None:
        """Keys under the request's view, where it is not the cache's any more: a run sees its own writes through its own view."""
        view = self.pins.view
        if (await store.find_cache(connection, self.pins.cache))["view"] == view.id:
            return
        keys = [_key(row, ids[row.source, row.step]) for turn in turns for row in turn.rows if row.tool in view.tools]
        if keys:
            await store.insert_keys(connection, self.pins.cache, view.id, key_columns(keys), revision)


def _key(row: Row, entry: str) -> KeyRow:
    return KeyRow(
        entry=entry,
        tool=row.tool,
        key=row.key,
        identity=row.identity,
        scoped_state=row.scoped_state,
        scenario=row.scenario,
        source=row.source,
        task=row.task,
        result_digest=row.result_digest,
        is_error=row.is_error,
        transient=row.transient,
        schema_hash=row.schema_hash,
        recorded_at=row.recorded_at,
        text=row.text,
    )


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
