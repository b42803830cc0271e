"""Mode `record`: every call goes to the cache's live tool server, and every answer is stored before it is given.

A server is a name in the service's configuration, never a caller's URL. An episode's calls go in order, and what comes back is exact by
definition. If an answer cannot be stored the request fails: a recording is never lost in silence. Arguments go to the server as they are,
and into the store without secrets.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Self

from cacherl.api.cache import LookupRequest
from cacherl.tier import CallOutcome
from services.cache_api.ask import Ask, ask, excluded_json
from services.cache_api.live.beginning import begin
from services.cache_api.live.calling import Calling
from services.cache_api.live.making import Maker
from services.cache_api.live.turn import LiveTurn, recorded_turns
from services.cache_api.lookup import MISS_MARK, Pins, no_answer
from services.cache_api.parts import Parts
from services.cache_api.reading import Reader


class RecordLookup:
    """Answers one request in mode `record`."""

    def __init__(self, parts: Parts, tenant: str, pins: Pins, turns: list[LiveTurn]) -> None:
        self.parts, self.pins, self.turns = parts, pins, turns
        self.maker = Maker(parts, tenant, pins)
        self.calling = Calling(parts, tenant, pins)
        self.asked: list[Ask] = []

    @classmethod
    async def begin(cls, parts: Parts, tenant: str, cache: str, request: LookupRequest) -> Self:
        """Pins a request and finds out where its episodes stand. Errors: those of `begin`, and of `recorded_turns`."""
        begun, bases = await begin(parts, tenant, cache, request)
        reader = Reader(parts.redactor, {name: tool.spec for name, tool in begun.pins.view.tools.items()})
        return cls(parts, tenant, begun.pins, recorded_turns(request, bases, begun, reader))

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item. Errors: LiveToolError, ConflictError."""
        for turn in self.turns:
            self._ask(turn)
        calls = [(turn, one) for turn in self.turns for one in turn.asks if one.malformed is None]
        results = await self.calling.call(calls) if calls else []
        now, given = datetime.now(UTC), iter(results)
        for turn in self.turns:
            for one in turn.asks:
                turn.answers.append(malformed_answer(one) if one.malformed is not None else self.maker.take(turn, one, next(given), now))
        if calls:
            # Once the calls are made, what they gave is stored even if the caller goes away.
            await asyncio.shield(asyncio.ensure_future(self.maker.store(self.turns)))
        return [{"state": turn.token, "results": turn.answers} for turn in self.turns]

    def _ask(self, turn: LiveTurn) -> None:
        pins, excluded = self.pins, excluded_json(turn.item)
        for call in turn.item.calls:
            turn.asks.append(ask(call, turn.item, excluded, turn.state, pins.view, pins.revision, pins.as_of, self.parts.redactor))
        self.asked += turn.asks


def malformed_answer(one: Ask) -> dict[str, Any]:
    """The answer to a call whose arguments cannot be read."""
    return no_answer(one, CallOutcome.MALFORMED, f"{MISS_MARK} {one.call.name}: {one.reason()}.")
