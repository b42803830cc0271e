"""One turn of an episode in a live mode: which source it is recorded as, where it stands, and what it makes.

An episode has one session at the live server and one source here, `run/task/episode`; run again from its start it is a source of its own,
`…~2`, in a session opened anew. Its place comes from the token, or is computed from the history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cacherl.api.cache import LookupItem, LookupRequest
from cacherl.errors import ConflictError, InputError
from cacherl.state import State
from services.cache_api.ask import Ask
from services.cache_api.event import Event, Link, link
from services.cache_api.live.position import Position, joined, position_of
from services.cache_api.live.writing import Row
from services.cache_api.lookup import Pins, start
from services.cache_api.reading import Reader

MAX_ATTEMPTS = 9


@dataclass(frozen=True, slots=True)
class Begun:
    """What a live request begins with."""

    pins: Pins
    attempts: Mapping[str, int]
    """How many attempts at an episode were recorded."""
    lost: frozenset[str]
    """Sessions that are not true any more."""


@dataclass(slots=True)
class LiveTurn:
    """One item: where it stands, the calls that it makes, and their answers."""

    item: LookupItem
    base: str
    """`run/task/episode`."""
    state: State
    position: Position
    past: list[Event] | None
    """The live calls before it, where its history tells them; None where they stand in the store alone."""
    lost: bool = False
    """Whether a call of its session had no answer, so that nobody knows what the session holds."""
    links: list[Link] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    made: list[Event] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Its source in the store."""
        return attempt_name(self.base, self.position.attempt)

    @property
    def session(self) -> str:
        """Its session at the live server."""
        assert self.item.session is not None
        return self.item.session

    @property
    def stale(self) -> bool:
        """Whether its session may hold what another attempt, or a call without an answer, left there: it has to begin anew."""
        return self.lost or (self.position.attempt > 1 and self.position.step == 0)

    @property
    def token(self) -> str:
        """The token after it."""
        return joined(self.state, self.position, self.session)


def attempt_name(base: str, attempt: int) -> str:
    """The source of an attempt."""
    return base if attempt == 1 else f"{base}~{attempt}"


def source_base(request: LookupRequest, item: LookupItem, number: int) -> str:
    """`run/task/episode`. Errors: InputError `episode-needed` where an item does not say which episode it belongs to."""
    missing = [
        {"pointer": pointer, "detail": f"needed in mode `{request.mode}`"}
        for pointer, given in (("/run", request.run), (f"/items/{number}/draw", item.draw), (f"/items/{number}/session", item.session))
        if not given
    ]
    if missing or item.draw is None:
        raise InputError("A live call belongs to an episode: a run, a task, a number and a session.", errors=missing, slug="episode-needed")
    base = f"{request.run}/{item.draw.task}/{item.draw.episode}"
    for text in (base, item.scenario, item.session or "", *(call.name for call in item.calls)):
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError("The text holds a character that cannot be stored.", slug="unstorable-text")
    return base


def bases_of(request: LookupRequest) -> list[str]:
    """The episodes of a request. Errors: InputError `episode-needed`, `episode-twice`."""
    bases = [source_base(request, item, number) for number, item in enumerate(request.items)]
    if len(set(bases)) != len(bases):
        raise InputError("Two items of a live request belong to one episode: send its turns one after the other.", slug="episode-twice")
    return bases


def unplaced(request: LookupRequest, bases: Sequence[str]) -> list[str]:
    """The episodes whose attempt is not told by a token."""
    return [base for base, item in zip(bases, request.items, strict=True) if position_of(item.state, item.session or "") is None]


def placed(request: LookupRequest, bases: Sequence[str]) -> dict[str, int]:
    """The sources whose place a token tells, and their next steps."""
    at = {base: position_of(item.state, item.session or "") for base, item in zip(bases, request.items, strict=True)}
    return {attempt_name(base, place.attempt): place.step for base, place in at.items() if place is not None}


def recorded_turns(request: LookupRequest, bases: Sequence[str], begun: Begun, reader: Reader) -> list[LiveTurn]:
    """The turns of a request in mode `record`, where every earlier call was live. `begun`: on its `unplaced` episodes.

    Errors: InputError `history-needed` for a token that says nothing of its live calls, ConflictError `episode-recorded`.
    """
    turns: list[LiveTurn] = []
    pins, attempts = begun.pins, begun.attempts
    for number, (base, item) in enumerate(zip(bases, request.items, strict=True)):
        position = position_of(item.state, item.session or "")
        if position is not None:
            turns.append(LiveTurn(item, base, start(item, pins, reader.redactor), position, None))
        elif item.history:
            turns.append(_with_history(item, base, pins, reader, max(attempts[base], 1)))
        elif item.state is None:
            turns.append(LiveTurn(item, base, State.start(pins.view.id), Position(next_attempt(base, attempts[base]), 0, None), []))
        else:
            errors = [{"pointer": f"/items/{number}/history", "detail": "the calls before this turn, since none of them was recorded here"}]
            raise InputError("A live turn needs the history of an episode that was not live so far.", errors=errors, slug="history-needed")
        turns[-1].lost = item.session in begun.lost
    return turns


def fallen_turn(item: LookupItem, base: str, begun: Begun, reader: Reader) -> LiveTurn:
    """Where an item of mode `fallthrough` stands: its live calls alone are its source, and what changed otherwise was not made live."""
    pins, known = begun.pins, begun.attempts.get(base, 0)
    position = position_of(item.state, item.session or "")
    past: list[Event] | None = None
    state = start(item, pins, reader.redactor)
    if position is None:
        made = [h for h in item.history or () if h.live] if item.state is None else []
        past = [reader.event(h.call.name, h.call.arguments, h.result, h.outcome) for h in made]
        links = chain(past)
        attempt = max(known, 1) if past else next_attempt(base, known)
        sure = all(event.name in pins.view.tools for event in past)
        live = _made_live(item, pins, reader) if past else 0
        position = Position(attempt, len(past), links[-1].id if links else None, live, sure)
    return LiveTurn(item, base, state, position, past, lost=item.session in begun.lost)


def _made_live(item: LookupItem, pins: Pins, reader: Reader) -> int:
    """Which of the mutations in an item's history were live, as bits."""
    live = 0
    history = item.history or []
    moved = 0
    for number, call in enumerate(history):
        after = len(start(item.model_copy(update={"history": history[: number + 1]}), pins, reader.redactor).mutations)
        if call.live and after > moved:
            live |= 1 << moved
        moved = after
    return live


def _with_history(item: LookupItem, base: str, pins: Pins, reader: Reader, attempt: int) -> LiveTurn:
    past = [reader.event(h.call.name, h.call.arguments, h.result, h.outcome) for h in item.history or ()]
    links = chain(past)
    state = start(item.model_copy(update={"state": None}), pins, reader.redactor)
    everything = (1 << len(state.mutations)) - 1
    known = all(event.name in pins.view.tools for event in past)
    position = Position(attempt, len(past), links[-1].id if links else None, everything, known)
    return LiveTurn(item, base, state, position, past, links=links)


def chain(events: Sequence[Event]) -> list[Link]:
    """The links of calls in order, from the start."""
    links: list[Link] = []
    parent: bytes | None = None
    for event in events:
        links.append(link(parent, event))
        parent = links[-1].id
    return links


def next_attempt(base: str, known: int) -> int:
    """The attempt after the known ones. Errors: ConflictError `episode-recorded`."""
    if known == MAX_ATTEMPTS:
        raise ConflictError(f"The episode {base} was recorded {MAX_ATTEMPTS} times already.", slug="episode-recorded")
    return known + 1


def recorded_past(rows: Sequence[Mapping[str, Any]]) -> list[Event]:
    """The live calls of a source as they were stored."""
    return [Event(row["tool"], row["arguments"], row["result"], row["is_error"]) for row in rows]
