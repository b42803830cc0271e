"""Mode `record`: every call goes to the cache's live tool server, and every answer is stored before it is given.

A server is a name in the service's configuration, never a caller's URL. An episode's calls go in order, and what comes back is exact by
definition. If an answer cannot be stored the request fails: a recording is never lost in silence. Arguments go to the server as they are,
and into the store without secrets.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Self

from cacherl.api.cache import LookupItem, LookupRequest
from cacherl.errors import ConflictError, InputError
from cacherl.tier import CallOutcome
from services.cache_api.ask import Ask, ask, excluded_json
from services.cache_api.live.beginning import begin
from services.cache_api.live.making import Maker
from services.cache_api.live.turn import LiveTurn, bases_of, recorded_turns, unplaced
from services.cache_api.lookup import MISS_MARK, Pins, no_answer
from services.cache_api.parts import Parts
from services.cache_api.reading import Reader


class RecordLookup:
    """Answers one request in mode `record`."""

    def __init__(self, parts: Parts, tenant: str, pins: Pins, request: LookupRequest, turns: list[LiveTurn]) -> None:
        self.parts, self.pins, self.request, self.turns = parts, pins, request, turns
        self.maker = Maker(parts, tenant, pins)
        self.asked: list[Ask] = []

    @classmethod
    async def begin(cls, parts: Parts, tenant: str, cache: str, request: LookupRequest) -> Self:
        """Pins a request and finds out where its episodes stand.

        Errors: those of `pinned`, InputError where an item lacks what a live call needs, ConflictError.
        """
        try:
            bases = bases_of(request)
        except InputError:
            # A cache that has no live server says so first.
            server_of((await begin(parts, tenant, cache, request, []))[0], parts)
            raise
        pins, attempts = await begin(parts, tenant, cache, request, unplaced(request, bases))
        server_of(pins, parts)
        reader = Reader(parts.redactor, {name: tool.spec for name, tool in pins.view.tools.items()})
        return cls(parts, tenant, pins, request, recorded_turns(request, bases, attempts, pins, reader))

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item. Errors: LiveToolError, ConflictError."""
        server = server_of(self.pins, self.parts)
        for turn in self.turns:
            self._ask(turn)
        calls = [(turn, one) for turn in self.turns for one in turn.asks if one.malformed is None]
        results = await self.parts.live.call(server, [live_call(turn.item, one) for turn, one in calls]) if calls else []
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


def server_of(pins: Pins, parts: Parts) -> str:
    """The name of a cache's live server. Errors: ConflictError `no-live-server`."""
    server = pins.settings.live_server
    if server is None or server not in parts.live.urls:
        raise ConflictError("This cache has no live server in the service's configuration.", slug="no-live-server")
    return server


def malformed_answer(one: Ask) -> dict[str, Any]:
    """The answer to a call whose arguments cannot be read."""
    return no_answer(one, CallOutcome.MALFORMED, f"{MISS_MARK} {one.call.name}: {one.reason()}.")


def live_call(item: LookupItem, one: Ask) -> dict[str, Any]:
    """A call as it goes to the live server."""
    return {"session": item.session, "scenario": item.scenario, "name": one.call.name, "arguments": one.call.arguments}
