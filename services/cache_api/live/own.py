"""Candidates of a run in mode `fallthrough`: what its pinned revision shows, and what the run itself wrote since."""

from collections.abc import Sequence

from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates, Found
from services.cache_api.embed import Embedder
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.cache_api.tiers.candidate import Candidate
from services.kit.postgres import AsyncRows


class OwnCandidates(Candidates):
    """The exact tier sees the run's own writes of calls that one may make for all; the near tiers see the pinned revision alone.

    What changes something, or differs each time, everybody makes for himself as long as he can: served from a sibling's it would leave the
    session behind, and one draw would be the whole group's.
    """

    def __init__(self, connection: AsyncRows, embedder: Embedder, pins: Pins, run: str) -> None:
        super().__init__(connection, embedder, view=pins.view, revision=pins.revision)
        self.pins |= {"own": f"{run}/", "paper": pins.preset == "paper"}

    async def exact_robust(self, asks: Sequence[Ask]) -> Found:
        """Of the full key."""
        return await self._with_own(asks, await super().exact_robust(asks))

    async def exact_paper(self, asks: Sequence[Ask]) -> Found:
        """Of tool and arguments."""
        return await self._with_own(asks, await super().exact_paper(asks))

    async def _with_own(self, asks: Sequence[Ask], pinned: Found) -> Found:
        numbers = [number for number, one in enumerate(asks) if shared(one)]
        own = dict(zip(numbers, await self.own([asks[number] for number in numbers]), strict=True))
        return [_merged(found, own.get(number, [])) for number, found in enumerate(pinned)]

    async def own(self, asks: Sequence[Ask]) -> Found:
        """What the run wrote."""
        return await self._ask(
            queries.exact_own,
            asks,
            lambda a: {
                "key": a.key,
                "state": a.scoped_state,
                "scenario": a.item.scenario,
                "excluded": a.excluded,
                "schema_hash": a.schema_hash,
                "not_before": a.not_before,
            },
        )


def shared(one: Ask) -> bool:
    """Whether one may make the call for all: it changes nothing, answers alike each time, and the schema takes it."""
    stochastic = one.spec is None or one.spec.annotations.stochastic is True
    return not one.moves and not stochastic and not one.faults


def _merged(pinned: list[Candidate], own: list[Candidate]) -> list[Candidate]:
    """Equal results count together, under the older entry."""
    found = {(c.digest, c.is_error, c.fresh, c.schema_agrees): c for c in pinned}
    for candidate in own:
        slot = (candidate.digest, candidate.is_error, candidate.fresh, candidate.schema_agrees)
        known = found.get(slot)
        found[slot] = _with(known, candidate.support) if known is not None else candidate
    return list(found.values())


def _with(known: Candidate, support: int) -> Candidate:
    return Candidate(
        key=known.key,
        digest=known.digest,
        is_error=known.is_error,
        fresh=known.fresh,
        schema_agrees=known.schema_agrees,
        support=known.support + support,
        entry=known.entry,
        source=known.source,
        step=known.step,
        recorded_at=known.recorded_at,
        arguments=known.arguments,
        result=known.result,
    )
