"""The short way of a lookup: what a request is pinned to and the candidates of its exact tier come in one round trip.

A lookup needs a view before it can ask for anything, and a view costs questions of its own. So the view that this process read last for
the cache is taken to be the one that the cache still reads by, and `cache.look` answers what the cache is by now beside the candidates, in
one snapshot. Where that is something else, or anything at all is wrong with the request, nothing of the attempt is kept and the caller
goes the long way, which knows all the errors. An answer is the same on both ways.

What was answered is remembered (`memory`); then the database is asked for the pins alone. Where a request names view and revision, what it
sees never changes unless erased, so pins that were seen to stand are taken to stand for `LEASE_S`; whoever erases waits longer before
saying that it is done (`expired`): what was said to be erased is served by no replica.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from psycopg import sql

from cacherl.api.cache import CacheSettings, LookupRequest
from cacherl.errors import CacheRLError
from services.cache_api import store
from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates, Found
from services.cache_api.embed import Embedder
from services.cache_api.lookup import Lookup, Pins, Turn
from services.cache_api.memory import Memory, Remembered, keys, place
from services.cache_api.redact import Redactor
from services.cache_api.store import Row
from services.cache_api.tally import Counted, counted
from services.cache_api.tiers.candidate import Candidate
from services.cache_api.view import View
from services.kit.postgres import Database
from services.kit.quick import Quick, QuickError

LOOK = b"select cache.look($1, $2, $3, $4, $5, $6, $7)::text"
FIXED_PLANS = sql.SQL("select set_config('plan_cache_mode', 'force_generic_plan', true)")
"""Planning a search costs twice what a small one does, and there is one way to do it."""
NEWEST = 1 << 62
"""Stands for the newest revision until the database says which it is: every tool of a view is known there."""
KEPT = 1024
LEASE_S = 0.1
"""How long pins that were seen to stand are taken to stand."""
Place = tuple[str, str, str | None]
"""Tenant, the cache's name or id, the view that the request names."""


class MovedError(Exception):
    """What was taken for granted is not so: go the long way."""


@dataclass(slots=True)
class Known:
    """A cache as a request found it."""

    cache: str
    settings: CacheSettings
    """They never change."""
    view: View
    newest: int
    """The newest revision that was seen."""
    stood: tuple[int, float] = (-1, 0.0)
    """The revision that was last seen to stand, and until when it is taken to, by the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request is answered."""

    pins: Pins
    items: list[dict[str, Any]]
    calls: list[Counted]


class Direct:
    """Answers lookups of caches that were read before."""

    def __init__(self, database: Database, dsn: str, embedder: Embedder, redactor: Redactor, memory_bytes: int) -> None:
        self.database = database
        self.quick = Quick(dsn, LOOK, application="cacherl cache_api")
        self.embedder = embedder
        self.redactor = redactor
        self.memory = Memory(memory_bytes)
        self._known: OrderedDict[Place, Known] = OrderedDict()

    def learn(self, tenant: str, cache: str, request: LookupRequest, pins: Pins) -> None:
        """Remembers what the long way found."""
        self._known[tenant, cache, request.view] = Known(pins.cache, pins.settings, pins.view, pins.revision)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    async def answer(self, tenant: str, cache: str, request: LookupRequest) -> Answered | None:
        """The answer; None: go the long way."""
        known = self._known.get((tenant, cache, request.view))
        if known is None:
            return None
        try:
            return await Asking(self, DirectCandidates(self, tenant, cache, request, known), request).answer()
        except MovedError:
            self._known.pop((tenant, cache, request.view), None)
            self.memory.forget(known.view.id)
        except (QuickError, CacheRLError):
            pass  # the long way tells what is wrong
        return None


class Asking:
    """One request on its short way."""

    def __init__(self, direct: Direct, candidates: "DirectCandidates", request: LookupRequest) -> None:
        self.memory, self.candidates, self.known, self.request = direct.memory, candidates, candidates.known, request
        self.revision = request.revision if request.revision is not None else self.known.newest
        """Where answers are remembered, if the cache has not gone on."""
        seen = request.revision if request.revision is not None else NEWEST
        preset = request.preset or self.known.settings.preset
        self.pins = Pins(self.known.cache, self.known.settings, seen, self.known.view, request.as_of or datetime.now(UTC), preset)
        self.lookup = Lookup(self.pins, candidates, direct.redactor, request)
        self.keys = keys(request)

    async def answer(self) -> Answered:
        """Remembered answers where there are any, candidates for the rest. Raises `MovedError` where the cache is not what it seemed."""
        there = place(self.pins, self.request, self.revision)
        kept = [self.memory.get(there, key) for key in self.keys]
        turns = await self._look([n for n, one in enumerate(kept) if one is None])
        if not (self.candidates.verified or self.candidates.standing):
            await self.candidates.look((), robust=True)
        revision: int = self.candidates.pins["revision"]
        if revision != self.revision and len(turns) < len(kept):  # the cache went on: nothing that is remembered holds
            kept = [None for _ in kept]
            turns = await self._look(range(len(kept)))
        self._remember(turns, revision)
        return self._told(kept, turns, replace(self.pins, revision=revision))

    async def _look(self, which: Sequence[int]) -> dict[int, Turn]:
        turns = {n: Turn(self.request.items[n], self.pins, self.lookup.redactor) for n in which}
        await self.lookup.through(list(turns.values()))
        return turns

    def _remember(self, turns: Mapping[int, Turn], revision: int) -> None:
        there = place(self.pins, self.request, revision)
        for n, turn in turns.items():
            self.memory.put(there, self.keys[n], turn)

    def _told(self, kept: Sequence[Remembered | None], turns: Mapping[int, Turn], pins: Pins) -> Answered:
        items: list[dict[str, Any]] = []
        calls: list[Counted] = []
        for n, one in enumerate(kept):
            if one is not None:
                items.append(one.answer(pins.as_of))
                calls += one.calls
            else:
                items.append({"state": turns[n].state.token, "results": turns[n].answers})
                calls += map(counted, turns[n].asked)
        return Answered(pins, items, calls)


async def expired() -> None:
    """Waits until no process takes for granted what stood before: after that, what was erased is served by nobody."""
    await asyncio.sleep(1.5 * LEASE_S)


class DirectCandidates(Candidates):
    """Candidates without a transaction around them: each statement has its own, all at one revision of one view."""

    def __init__(self, direct: Direct, tenant: str, called: str, request: LookupRequest, known: Known) -> None:
        self.direct = direct
        self.embedder = direct.embedder
        self.made_by = known.view.embedder
        self.tenant, self.called, self.known = tenant, called, known
        self.verified = False
        self._pinned = request.revision is not None and request.view is not None
        self.pins: Row = {"cache": known.cache, "view": known.view.id, "revision": request.revision}

    @property
    def standing(self) -> bool:
        """Whether the request names its pins, and they were seen to stand a moment ago."""
        revision, until = self.known.stood
        return self._pinned and revision == self.pins["revision"] and time.monotonic() < until

    async def rows(self, query: Any, parameters: Row) -> list[Row]:
        """All rows of a statement, in a transaction of its own."""
        if not self.verified:
            await self.look((), robust=True)
            parameters = parameters | self.pins
        async with self.direct.database.tenant(self.tenant) as connection:
            await connection.execute(FIXED_PLANS)
            return await store.rows(connection, query, parameters)

    async def exact_robust(self, asks: Sequence[Ask]) -> Found:
        """Of the full key."""
        return await self.look(asks, robust=True) if asks else []

    async def exact_paper(self, asks: Sequence[Ask]) -> Found:
        """Of tool and arguments."""
        return await self.look(asks, robust=False) if asks else []

    async def look(self, asks: Sequence[Ask], *, robust: bool) -> Found:
        """Candidates for each ask. Raises `MovedError` where the cache is not what it was taken for."""
        revision = self.pins["revision"]
        asked: dict[tuple[Any, ...], int] = {}  # equal questions go once: the siblings of a group cost what one does
        index = [asked.setdefault(_question(one), len(asked)) for one in asks]
        parameters = (
            self.tenant.encode(),
            self.known.cache.encode(),
            self.called.encode(),
            self.known.view.id.encode(),
            str(revision).encode() if revision is not None else None,
            b"true" if robust else b"false",
            questions(asked),
        )
        began = time.monotonic()
        answer = await self.direct.quick.ask(parameters)
        if answer is None:
            raise MovedError
        said = orjson.loads(answer)
        self._verify(*said["pins"])
        self.known.stood = (self.pins["revision"], began + LEASE_S)
        found: Found = [[] for _ in asked]
        for number, key, digest, is_error, fresh, agrees, support, entry, source, step, recorded_at, result in said["found"]:
            recorded = datetime.fromisoformat(recorded_at) if recorded_at is not None else None
            columns = (bytes.fromhex(key), bytes.fromhex(digest), is_error, fresh, agrees, support, entry, source, step, recorded, result)
            found[number].append(Candidate(*columns))
        return [found[number] for number in index]

    def _verify(self, newest: int, present: str, erased: bool, version: int, since: int, through: int | None) -> None:
        """Compares what the cache is with what it was taken for, and settles the revision."""
        known = self.known.view
        if erased or (version, through) != (known.version, known.covers_through) or (through is None and present != known.id):
            raise MovedError
        last = newest if through is None else through
        revision = self.pins["revision"]
        if revision is not None and not since <= revision <= last:
            raise MovedError
        self.known.newest = last
        self.pins["revision"] = last if revision is None else revision
        self.verified = True


def questions(asked: Iterable[tuple[Any, ...]]) -> bytes:
    """Questions as `cache.look` takes them. Raises `QuickError` for what no text in the database holds."""
    try:
        told = orjson.dumps([(k, s, scenario, orjson.Fragment(excluded), h, t) for k, s, scenario, excluded, h, t in asked])
    except TypeError:  # half a surrogate pair
        raise QuickError("half a surrogate pair") from None
    if b"\\u0000" in told:
        raise QuickError("a null character")
    return told


def _question(one: Ask) -> tuple[Any, ...]:
    state = one.scoped_state.hex() if one.scoped_state is not None else None
    return one.key.hex(), state, one.item.scenario, one.excluded, one.schema_hash, one.not_before
