"""Answers that are given again: the siblings of a group, and every epoch after the first, ask the same.

What an item is answered depends on what it says and on what it is pinned to: the view as it stands, the revision, the preset, how one of
several results is chosen. It does not depend on the time, except through a tool's ttl, and then it is not kept; ages are told anew. Nothing
here says whether the pins still stand: whoever reads it must know (`direct`). The oldest answers go first when the memory is full.
"""

from collections import OrderedDict
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from cacherl.api.cache import LookupItem, LookupRequest
from services.cache_api.lookup import Pins, Turn
from services.cache_api.tally import Counted, counted

BYTES_A_CALL = 2_000
"""About what a call takes beside its result and its key."""
Place = tuple[str, int, int, str, str, int]
"""Id and version of the view, revision, preset, choice, seed."""


class Remembered(NamedTuple):
    """The answer to an item."""

    state: str
    results: list[dict[str, Any]]
    """Nobody changes them."""
    calls: tuple[Counted, ...]
    bytes: int

    def answer(self, as_of: datetime) -> dict[str, Any]:
        """A `LookupItemAnswer` at that time."""
        return {"state": self.state, "results": [_aged(one, as_of) for one in self.results]}


class Memory:
    """Answers of this process, up to a number of bytes; 0 keeps none."""

    def __init__(self, bytes_at_most: int) -> None:
        self.bytes_at_most = bytes_at_most
        self.bytes = 0
        self._answers: OrderedDict[tuple[Place, bytes], Remembered] = OrderedDict()

    def get(self, place: Place, key: bytes | None) -> Remembered | None:
        """What was answered there, where it is kept."""
        if key is None:
            return None
        found = self._answers.get((place, key))
        if found is not None:
            self._answers.move_to_end((place, key))
        return found

    def put(self, place: Place, key: bytes | None, turn: Turn) -> None:
        """Keeps an answer that will be the same at any time."""
        if key is None or not self.bytes_at_most or any(one.not_before is not None for one in turn.asked) or (place, key) in self._answers:
            return
        results = sum(len(one.chosen.result) for one in turn.asked if one.chosen is not None)
        size = len(key) + results + BYTES_A_CALL * len(turn.asked)
        self._answers[place, key] = Remembered(turn.state.token, turn.answers, tuple(map(counted, turn.asked)), size)
        self.bytes += size
        while self.bytes > self.bytes_at_most:
            self.bytes -= self._answers.popitem(last=False)[1].bytes

    def forget(self, view: str) -> None:
        """Drops what was answered under a view."""
        for slot in [slot for slot in self._answers if slot[0][0] == view]:
            self.bytes -= self._answers.pop(slot).bytes


def keys(request: LookupRequest) -> list[bytes | None]:
    """The key of each item; None for one whose answer is not kept: with a history, or with an explanation."""
    sampled = request.select == "sample"
    return [None if request.explain or item.history is not None else _key(item, sampled=sampled) for item in request.items]


def place(pins: Pins, request: LookupRequest, revision: int) -> Place:
    """Where the answers to a request are kept."""
    seed = request.run_seed if request.select == "sample" else 0
    return pins.view.id, pins.view.version, revision, pins.preset, request.select, seed


def _key(item: LookupItem, *, sampled: bool) -> bytes | None:
    calls = [(call.name, call.occurrence, call.arguments) for call in item.calls]
    draw = (item.draw.task, item.draw.episode) if sampled and item.draw is not None else None
    try:
        return orjson.dumps((item.state, item.scenario, item.exclude_sources, draw, calls))
    except TypeError:  # an integer wider than 64 bits, half a surrogate pair
        return None


def _aged(result: dict[str, Any], as_of: datetime) -> dict[str, Any]:
    entry = result["entry"]
    if entry is None or entry["recorded_at"] is None:
        return result
    return result | {"age_s": (as_of - entry["recorded_at"]).total_seconds()}
