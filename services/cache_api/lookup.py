"""Lookup: turns of many episodes in, answers with provenance out (method §3.4).

The state is chained through the calls of a turn. Calls that cannot move it go together with the next that may, so a request is a few
waves; the exact keys of a wave are one statement, the near ones of what is left another. `robust` never serves across scenarios or
states, past an identifier that differs, nor a success for a call that the schema refuses; fuzzy and best effort answer only where
calibration earned it. The same revision, view, `as_of` and request always give the same answer. Nothing is invented: without a recording
the answer is a miss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from pydantic_core import from_json

from cacherl.api.cache import CacheSettings, HistoryItem, LookupItem, LookupRequest
from cacherl.state import State, advance
from cacherl.tier import CallOutcome, Preset, Tier, ToolResult
from services.cache_api.ask import Ask, ask, excluded_json
from services.cache_api.candidates import Candidates
from services.cache_api.explain import explain
from services.cache_api.live.position import state_part
from services.cache_api.redact import Redactor
from services.cache_api.tiers import best_effort, exact, fuzzy
from services.cache_api.tiers.candidate import Candidate, choose, draw_seed
from services.cache_api.view import View

MISS_MARK = "[no recorded result]"


@dataclass(frozen=True, slots=True)
class Pins:
    """What a request is pinned to."""

    cache: str
    settings: CacheSettings
    revision: int
    view: View
    as_of: datetime
    preset: Preset


class Turn:
    """One item on its way: how far its calls are answered and the state after them."""

    def __init__(self, item: LookupItem, pins: Pins, redactor: Redactor) -> None:
        self.item = item
        self.excluded = excluded_json(item)
        self.state = start(item, pins, redactor)
        self.answers: list[dict[str, Any]] = []
        self.asked: list[Ask] = []
        """Every call, once it has a place in a wave."""
        self._position = 0

    def wave(self, pins: Pins, redactor: Redactor) -> list[Ask]:
        """The next calls that see one state: up to and with the first that may move it."""
        asks: list[Ask] = []
        while self._position < len(self.item.calls) and not (asks and asks[-1].moves):
            call = self.item.calls[self._position]
            asks.append(ask(call, self.item, self.excluded, self.state, pins.view, pins.revision, pins.as_of, redactor))
            self._position += 1
        self.asked += asks
        return asks

    def take(self, one: Ask, outcome: CallOutcome, result: ToolResult | None, answer: dict[str, Any]) -> None:
        """Notes an answer and moves the state; `result` may be None where the call cannot move it."""
        self.answers.append(answer)
        if one.moves and result is not None:
            self.state = advance(self.state, one.stated, one.spec, outcome, result, one.canonical)


def start(item: LookupItem, pins: Pins, redactor: Redactor) -> State:
    """The state before a turn, from its token or its history.

    Errors: ConflictError `state-of-another-view`, InputError `not-a-state`.
    """
    if item.state is not None or item.history is None:
        return State.parse(state_part(item.state), pins.view.id)
    return replayed(item.history, pins, redactor)


def replayed(history: Sequence[HistoryItem], pins: Pins, redactor: Redactor) -> State:
    """The state after a history."""
    state = State.start(pins.view.id)
    for past in history:
        tool = pins.view.tool(past.call.name, pins.revision)
        spec = tool.spec if tool is not None else None
        call = past.call.model_copy(update={"arguments": redactor.call(past.call.arguments, spec)})
        result = past.result.model_copy(update={"content": redactor.value(past.result.content)})
        state = advance(state, call, spec, past.outcome, result)
    return state


class Lookup:
    """Answers one request."""

    def __init__(self, pins: Pins, candidates: Candidates, redactor: Redactor, request: LookupRequest) -> None:
        self.pins = pins
        self.candidates = candidates
        self.redactor = redactor
        self.request = request
        self.asked: list[Ask] = []
        """Every call, once answered: for counting."""

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item, as a dict in which results are JSON fragments."""
        turns = [Turn(item, self.pins, self.redactor) for item in self.request.items]
        await self.through(turns)
        return [{"state": turn.state.token, "results": turn.answers} for turn in turns]

    async def through(self, turns: Sequence[Turn]) -> None:
        """Answers turns wave by wave."""
        while waves := [(turn, asks) for turn in turns if (asks := turn.wave(self.pins, self.redactor))]:
            flat = [one for _, asks in waves for one in asks]
            await self._settle(flat)
            if self.request.explain:
                await explain(flat, self.pins.preset, self.pins.settings, self.candidates)
            for turn, asks in waves:
                for one in asks:
                    self._take(turn, one)
            self.asked += flat

    async def _settle(self, asks: list[Ask]) -> None:
        if self.pins.preset == "paper":
            await settle_paper(asks, self.candidates, self.pins.settings.fuzzy_threshold)
        else:
            await settle_robust(asks, self.candidates, self.pins.settings.fidelity_floor)

    def _take(self, turn: Turn, one: Ask) -> None:
        if one.match is None:
            outcome = CallOutcome.MISS if one.malformed is None else CallOutcome.MALFORMED
            text = f"{MISS_MARK} {one.call.name}: {one.reason()}."
            turn.take(one, outcome, ToolResult(content=text, is_error=True), no_answer(one, outcome, text))
            return
        one.chosen = self._chosen(one, one.match.candidates)
        result = None
        if one.moves:
            result = ToolResult.model_construct(content=from_json(one.chosen.result), is_error=one.chosen.is_error)
        turn.take(one, CallOutcome(one.tier.value), result, self._served(one))

    def _chosen(self, one: Ask, candidates: Sequence[Candidate]) -> Candidate:
        if len(candidates) == 1:
            return candidates[0]
        draw = one.item.draw
        seed = draw_seed(self.request.run_seed, draw.task if draw else "", draw.episode if draw else 0, one.key, one.call.occurrence)
        return choose(candidates, self.request.select, seed)

    def _served(self, one: Ask) -> dict[str, Any]:
        chosen, match = one.chosen, one.match
        assert chosen is not None
        assert match is not None
        robust = self.pins.preset == "robust"
        calibrated = {Tier.EXACT: one.exact, Tier.FUZZY: one.fuzzy, Tier.BEST_EFFORT: one.best_effort}[one.tier] if robust else None
        return {
            "outcome": one.tier.value,
            "result": {"content": orjson.Fragment(chosen.result), "is_error": chosen.is_error},
            "similarity": round(match.similarity, 6),
            "fidelity": calibrated.fidelity_at(match.similarity) if calibrated is not None else None,
            "entry": {"id": chosen.entry, "source": chosen.source, "step": chosen.step, "recorded_at": chosen.recorded_at},
            "agreement": {"scenario": True, "state": True, "schema": chosen.schema_agrees} if robust else None,
            "mutating": one.moves,
            "age_s": (self.pins.as_of - chosen.recorded_at).total_seconds() if chosen.recorded_at is not None else None,
            "live": False,
            "explain": one.explanation,
        }


def no_answer(one: Ask, outcome: CallOutcome, text: str) -> dict[str, Any]:
    """The answer where there is none: typed, readable, never mistaken for a tool's."""
    return {
        "outcome": outcome.value,
        "result": {"content": text, "is_error": True},
        "similarity": None,
        "fidelity": None,
        "entry": None,
        "agreement": None,
        "mutating": one.moves,
        "age_s": None,
        "live": False,
        "explain": one.explanation,
    }


async def settle_robust(asks: list[Ask], candidates: Candidates, floor: float) -> None:
    """Finds the best tier that may answer each ask."""
    open_asks = [one for one in asks if not one.settled and one.scoped_state is not None]
    for one, found in zip(open_asks, await candidates.exact_robust(open_asks), strict=True):
        one.settle(Tier.EXACT, exact.robust(found, schema_refuses=bool(one.faults)))
    near = [one for one in open_asks if not one.settled and not one.faults and (one.fuzzy is not None or may_guess(one, floor))]
    for one, found in zip(near, await candidates.near_robust(near), strict=True):
        if one.fuzzy is not None:
            threshold = one.fuzzy.threshold if one.fuzzy.threshold is not None else 1.0
            one.settle(Tier.FUZZY, fuzzy.robust(one.canonical, one.spec, found, threshold))
        if not one.settled and may_guess(one, floor):
            one.settle(Tier.BEST_EFFORT, best_effort.robust(found, one.best_effort, floor))


def may_guess(one: Ask, floor: float) -> bool:
    """Whether calibration earned this tool its best-effort tier, above the cache's floor."""
    return one.best_effort is not None and one.best_effort.fidelity_at(1.0) >= floor


async def settle_paper(asks: list[Ask], candidates: Candidates, threshold: float) -> None:
    """The recipe as it is stated: exact, Jaccard, nearest."""
    open_asks = [one for one in asks if not one.settled]
    for one, found in zip(open_asks, await candidates.exact_paper(open_asks), strict=True):
        one.settle(Tier.EXACT, exact.paper(found))
    near = [one for one in open_asks if not one.settled]
    for one, found in zip(near, await candidates.near_paper(near), strict=True):
        one.settle(Tier.FUZZY, fuzzy.paper(one.canonical, one.spec, found, threshold))
        if not one.settled:
            one.settle(Tier.BEST_EFFORT, best_effort.nearest(found))
