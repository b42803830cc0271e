"""Candidates of a run in mode `fallthrough`: what its pinned revision shows, and what the run itself wrote since."""

from collections.abc import Sequence

from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates, Found
from services.cache_api.embed import Embedder
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.cache_api.store import Row
from services.kit.postgres import AsyncRows


class OwnCandidates(Candidates):
    """The exact tier sees the run's own writes of calls that one may make for all; the near tiers see the pinned revision alone.

    What changes something, or differs each time, everybody makes for himself as long as he can: served from a sibling's it would leave the
    session behind, and one draw would be the whole group's.
    """

    def __init__(self, connection: AsyncRows, embedder: Embedder, pins: Pins, run: str) -> None:
        super().__init__(connection, embedder, view=pins.view, revision=pins.revision)
        self.pins |= {"run": f"{run}/", "paper": pins.preset == "paper"}

    async def exact_robust(self, asks: Sequence[Ask]) -> Found:
        """Of the full key."""
        return await self._ask(queries.exact_seen, asks, lambda a: _question(a) | {"pinned": True, "mine": shared(a)})

    async def exact_paper(self, asks: Sequence[Ask]) -> Found:
        """Of tool and arguments."""
        return await self.exact_robust(asks)

    async def own(self, asks: Sequence[Ask]) -> Found:
        """What the run wrote, of whatever kind."""
        return await self._ask(queries.exact_seen, asks, lambda a: _question(a) | {"pinned": False, "mine": True})


def shared(one: Ask) -> bool:
    """Whether one may make the call for all: it changes nothing, answers alike each time, and the schema takes it."""
    stochastic = one.spec is None or one.spec.annotations.stochastic is True
    return not one.moves and not stochastic and not one.faults


def _question(one: Ask) -> Row:
    return {
        "key": one.key,
        "state": one.scoped_state,
        "scenario": one.item.scenario,
        "excluded": one.excluded,
        "schema_hash": one.schema_hash,
        "not_before": one.not_before,
    }
