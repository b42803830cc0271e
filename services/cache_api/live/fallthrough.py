"""Mode `fallthrough`: recorded where it can be, live where it must be and would be true, and stored.

A lookup sees the pinned revision and what the run itself wrote since. A miss is made live where the call's session holds every change that
its result depends on, and the run's budget allows it; else it stays a miss that says why. Calls that cannot change anything are made once
for a full key, however many need them at the same time and in whichever replica. What changes something, or answers differently each time,
is made by everybody for himself, and only who cannot is served what another episode of the run was told. In a wave the reads come before
the one call that may change something, live ones too.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from cacherl.api.cache import LookupItem, LookupRequest
from cacherl.tier import CallOutcome, MissReason, Tier, ToolResult
from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates
from services.cache_api.explain import explain
from services.cache_api.live.beginning import begin
from services.cache_api.live.budget import Budget
from services.cache_api.live.calling import Calling
from services.cache_api.live.flights import Flights, flight_of
from services.cache_api.live.making import Maker
from services.cache_api.live.own import OwnCandidates, shared
from services.cache_api.live.position import joined
from services.cache_api.live.truth import REASONS, not_true
from services.cache_api.live.turn import Begun, LiveTurn, fallen_turn
from services.cache_api.lookup import MISS_MARK, Lookup, Pins, Turn, no_answer
from services.cache_api.parts import Parts
from services.cache_api.reading import Reader
from services.cache_api.tiers import exact


class FallenTurn(Turn):
    """One item on its way, and where it stands in its live session."""

    def __init__(self, item: LookupItem, pins: Pins, live: LiveTurn, parts: Parts) -> None:
        super().__init__(item, pins, parts.redactor)
        self.state = live.state
        self.live = live
        self.results: dict[int, dict[str, Any]] = {}
        """Answers to live calls of the wave, by ask."""

    @property
    def token(self) -> str:
        """The token after it; it tells of the live session once there is one."""
        return joined(self.state, self.live.position if self.live.position.step else None, self.live.session)


Missed = tuple[FallenTurn, Ask]
Pending = dict[bytes, deque[Missed]]
"""Calls by flight that nobody has answered yet."""


class FallthroughLookup(Lookup):
    """Answers one request in mode `fallthrough`."""

    def __init__(self, parts: Parts, tenant: str, begun: Begun, bases: Sequence[str], request: LookupRequest) -> None:
        self.parts, self.tenant, self.run = parts, tenant, request.run or ""
        pins = begun.pins
        self.maker = Maker(parts, tenant, pins)
        self.calling = Calling(parts, tenant, pins)
        self.flights = Flights(parts.database, parts.landings, tenant, pins.cache, parts.settings.live_lease_s)
        calls = request.budget if request.budget is not None else pins.settings.live_budget
        self.budget = Budget(parts.database, tenant, pins.cache, self.run, calls)
        reader = Reader(parts.redactor, {name: tool.spec for name, tool in pins.view.tools.items()})
        self.turns = [
            FallenTurn(item, pins, fallen_turn(item, base, begun, reader), parts) for item, base in zip(request.items, bases, strict=True)
        ]
        self.why: dict[int, MissReason] = {}
        self.spent = False
        """Whether the budget was used up when it was asked last."""
        self.pins, self.redactor, self.request = pins, parts.redactor, request
        self.asked: list[Ask] = []

    @classmethod
    async def begin(cls, parts: Parts, tenant: str, cache: str, request: LookupRequest) -> Self:
        """Pins a request and finds out where its episodes stand. Errors: those of `begin`."""
        begun, bases = await begin(parts, tenant, cache, request)
        return cls(parts, tenant, begun, bases, request)

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item. Errors: LiveToolError, ConflictError."""
        while waves := [(turn, asks) for turn in self.turns if (asks := turn.wave(self.pins, self.redactor))]:
            flat = [one for _, asks in waves for one in asks]
            await self._look(flat)
            await self._make([(turn, one) for turn, asks in waves for one in asks if one.match is None and one.malformed is None])
            for turn, asks in waves:
                for one in asks:
                    self._take(turn, one)
            self.asked += flat
        return [{"state": turn.token, "results": turn.answers} for turn in self.turns]

    async def _look(self, asks: list[Ask]) -> None:
        async with self.parts.database.tenant(self.tenant) as connection:
            self.candidates: Candidates = OwnCandidates(connection, self.parts.embedder, self.pins, self.run)
            await self._settle(asks)
            if self.request.explain:
                await explain(asks, self.pins.preset, self.pins.settings, self.candidates)

    async def _make(self, missed: Sequence[Missed]) -> None:
        """Makes live what would be true: reads first, then what may change something."""
        true: list[Missed] = []
        for turn, one in missed:
            reason = not_true(one, turn.state, turn.live.position)
            if reason is None:
                true.append((turn, one))
            else:
                self.why[id(one)] = reason
        common = [(turn, one) for turn, one in true if shared(one)]
        await self._lead([(turn, one) for turn, one in true if not one.moves and not shared(one)])
        await self._fly(common)
        await self._lead([(turn, one) for turn, one in true if one.moves])
        await self._borrow([one for _, one in missed if id(one) in self.why and not shared(one)])

    async def _borrow(self, asks: Sequence[Ask]) -> None:
        """What cannot be made live may still have been made by another episode of the run, in the same state."""
        known = [one for one in asks if one.scoped_state is not None]
        if not known:
            return
        async with self.parts.database.tenant(self.tenant) as connection:
            found = await OwnCandidates(connection, self.parts.embedder, self.pins, self.run).own(known)
        for one, candidates in zip(known, found, strict=True):
            one.settle(Tier.EXACT, exact.robust(candidates, schema_refuses=bool(one.faults)))

    async def _fly(self, made: Sequence[Missed]) -> None:
        """Makes calls that one may make for all: those whose flight is free, until none is left; the others read what was stored."""
        pending: Pending = {}
        for turn, one in made:
            pending.setdefault(flight_of(one, self.pins, self.run), deque()).append((turn, one))
        while pending:
            taken = await self.flights.take(list(pending))
            if not taken:
                await self.flights.wait(list(pending))
                continue
            async with self.flights.held(taken):
                await self._read(pending, taken)
                await self._lead([pending[flight].popleft() for flight in taken if flight in pending])
                await self._read(pending, [flight for flight in taken if pending.get(flight)])
                self._give_up(pending, taken)
            for flight in [flight for flight, waiting in pending.items() if not waiting]:
                del pending[flight]

    def _give_up(self, pending: Pending, taken: Iterable[bytes]) -> None:
        """Where the budget is used up, nobody of this request can make the call."""
        if self.spent:
            for flight in taken:
                for _, one in pending.pop(flight, ()):
                    self.why[id(one)] = MissReason.BUDGET

    async def _read(self, pending: Pending, flights: Iterable[bytes]) -> None:
        """Answers from what the run wrote; those it answers are pending no more."""
        wanted = [flight for flight in flights if flight in pending]
        if not wanted:
            return
        async with self.parts.database.tenant(self.tenant) as connection:
            candidates = OwnCandidates(connection, self.parts.embedder, self.pins, self.run)
            found = await candidates.own([pending[flight][0][1] for flight in wanted])
        for flight, candidates_of in zip(wanted, found, strict=True):
            waiting = pending[flight]
            match = exact.robust(candidates_of, schema_refuses=False)
            if match is not None:
                for _, one in waiting:
                    one.settle(Tier.EXACT, match)
                del pending[flight]

    async def _lead(self, made: Sequence[Missed]) -> None:
        """Makes calls live and stores what they gave, as far as the budget goes."""
        granted = await self.budget.spend(len(made))
        self.spent = granted < len(made)
        for _, one in made[granted:]:
            self.why[id(one)] = MissReason.BUDGET
        made = made[:granted]
        if not made:
            return
        # Once the calls are made, what they gave is stored even if the caller goes away.
        await asyncio.shield(asyncio.ensure_future(self._made(made)))

    async def _made(self, made: Sequence[Missed]) -> None:
        async with self.budget.counted(len(made)):
            results = await self.calling.call([(turn.live, one) for turn, one in made])
        now = datetime.now(UTC)
        for (turn, one), result in zip(made, results, strict=True):
            turn.live.state = turn.state
            turn.results[id(one)] = answer = self.maker.take(turn.live, one, result, now)
            turn.live.answers.append(answer)
            turn.state = turn.live.state
        await self.maker.store([turn.live for turn in {id(turn): turn for turn, _ in made}.values()])

    def _take(self, turn: Turn, one: Ask) -> None:
        assert isinstance(turn, FallenTurn)
        answer = turn.results.pop(id(one), None)
        if answer is not None:
            turn.answers.append(answer | {"explain": one.explanation})
            return
        reason = self.why.get(id(one))
        if one.match is not None or reason is None:
            super()._take(turn, one)
            return
        text = f"{MISS_MARK} {one.call.name}: {REASONS[reason]}."
        result = ToolResult(content=text, is_error=True)
        turn.take(one, CallOutcome.MISS, result, no_answer(one, CallOutcome.MISS, text) | {"miss": reason.value})
