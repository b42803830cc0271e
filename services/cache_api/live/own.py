"""Candidates of a run in mode `fallthrough`: what its pinned revision shows, and what the run itself wrote since."""

from collections.abc import Sequence
from dataclasses import replace

from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates, Found
from services.cache_api.embed import Embedder
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.cache_api.tiers.candidate import Candidate
from services.kit.postgres import AsyncRows


class OwnCandidates(Candidates):
    """The exact tier sees the run's own writes; the near tiers see the pinned revision alone."""

    def __init__(self, connection: AsyncRows, embedder: Embedder, pins: Pins, run: str) -> None:
        super().__init__(connection, embedder, view=pins.view, revision=pins.revision)
        self.pins |= {"own": f"{run}/", "paper": pins.preset == "paper"}

    async def exact_robust(self, asks: Sequence[Ask]) -> Found:
        """Of the full key."""
        return _together(await super().exact_robust(asks), await self.own(asks))

    async def exact_paper(self, asks: Sequence[Ask]) -> Found:
        """Of tool and arguments."""
        return _together(await super().exact_paper(asks), await self.own(asks))

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


def _together(pinned: Found, own: Found) -> Found:
    return [_merged(a, b) for a, b in zip(pinned, own, strict=True)]


def _merged(pinned: list[Candidate], own: list[Candidate]) -> list[Candidate]:
    """Equal results count together, under the older entry."""
    found = {(c.digest, c.is_error, c.fresh, c.schema_agrees): c for c in pinned}
    for candidate in own:
        slot = (candidate.digest, candidate.is_error, candidate.fresh, candidate.schema_agrees)
        known = found.get(slot)
        found[slot] = replace(known, support=known.support + candidate.support) if known is not None else candidate
    return list(found.values())
