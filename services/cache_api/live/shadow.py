"""Mode `shadow`: answers as in replay, and beside it asks a live tool for a sampled share of what was served, to see how often they differ.

The sample is drawn from the run's seed, the task, the episode and the call, so the same run compares the same calls. Nothing that may
change something is ever asked, nor a call whose live answer would not be this call's: since nothing is changed live, that is every call
behind a change in its scope. Two results differ as they do everywhere: after normalisation, with volatile fields masked. No answer waits
for its comparison, and one that cannot be made is counted, not repeated.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout
from pydantic_core import to_json

from cacherl.api.cache import LookupRequest
from cacherl.error_class import ErrorClass, error_class
from cacherl.errors import CacheRLError
from cacherl.result_digest import result_digest
from cacherl.tier import ToolResult
from services.cache_api.ask import Ask
from services.cache_api.candidates import Candidates
from services.cache_api.live.beginning import begin
from services.cache_api.live.budget import Budget
from services.cache_api.live.calling import Calling
from services.cache_api.live.position import Position
from services.cache_api.live.truth import not_true
from services.cache_api.live.turn import Begun, LiveTurn
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Lookup, Pins, Turn
from services.cache_api.parts import Parts
from services.cache_api.redact import Redactor
from services.cache_api.tiers.candidate import draw_seed

NOTHING_LIVE = Position(1, 0, None)
PERSON = b"shadow"
"""Keeps the sample apart from the draws among several results."""
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Comparison:
    """What one served answer was found to be."""

    tool: str
    tier: str
    diverged: bool
    failed: bool
    example: str | None


class SampledTurn(Turn):
    """One item, and those of its calls that are compared."""

    def __init__(self, item: Any, base: str, pins: Pins, redactor: Redactor) -> None:
        super().__init__(item, pins, redactor)
        self.live = LiveTurn(item, base, self.state, NOTHING_LIVE, [])
        self.sampled: list[Ask] = []


class ShadowLookup(Lookup):
    """Answers one request in mode `shadow`."""

    def __init__(self, parts: Parts, tenant: str, begun: Begun, bases: Sequence[str], request: LookupRequest) -> None:
        self.parts, self.tenant = parts, tenant
        self.pins, self.redactor, self.request = begun.pins, parts.redactor, request
        self.turns = [SampledTurn(item, base, self.pins, self.redactor) for item, base in zip(request.items, bases, strict=True)]
        self.asked: list[Ask] = []

    @classmethod
    async def begin(cls, parts: Parts, tenant: str, cache: str, request: LookupRequest) -> Self:
        """Pins a request. Errors: those of `begin`."""
        begun, bases = await begin(parts, tenant, cache, request)
        return cls(parts, tenant, begun, bases, request)

    async def answer(self) -> list[dict[str, Any]]:
        """One `LookupItemAnswer` per item; the comparisons go on after it."""
        async with self.parts.database.tenant(self.tenant) as connection:
            self.candidates = Candidates(connection, self.parts.embedder, view=self.pins.view, revision=self.pins.revision)
            await self.through(self.turns)
        sampled = [(turn.live, one) for turn in self.turns for one in turn.sampled]
        if sampled:
            self.parts.shadows.start(self._compare(sampled))
        return [{"state": turn.state.token, "results": turn.answers} for turn in self.turns]

    def _take(self, turn: Turn, one: Ask) -> None:
        assert isinstance(turn, SampledTurn)
        if one.match is not None and not one.moves and self._drawn(one) and not_true(one, turn.state, NOTHING_LIVE) is None:
            turn.sampled.append(one)
        super()._take(turn, one)

    def _drawn(self, one: Ask) -> bool:
        draw = one.item.draw
        seed = draw_seed(self.request.run_seed, draw.task if draw else "", draw.episode if draw else 0, one.key, one.call.occurrence)
        number = int.from_bytes(hashlib.blake2b(seed, digest_size=8, person=PERSON).digest())
        return number < self.pins.settings.shadow_share * (1 << 64)

    async def _compare(self, sampled: Sequence[tuple[LiveTurn, Ask]]) -> None:
        calls = self.request.budget if self.request.budget is not None else self.pins.settings.live_budget
        budget = Budget(self.parts.database, self.tenant, self.pins.cache, self.request.run or "", calls)
        made = sampled[: await budget.spend(len(sampled))]
        if not made:
            return
        try:
            async with budget.counted(len(made)):
                results = await Calling(self.parts, self.tenant, self.pins).call(made)
        except CacheRLError as error:
            log.warning("nothing compared", action="shadow", reason=error.problem_slug, calls=len(made))
            found = [Comparison(one.call.name, one.tier.value, diverged=False, failed=True, example=None) for _, one in made]
        else:
            found = [self._compared(one, result) for (_, one), result in zip(made, results, strict=True)]
        await self._count(found)

    def _compared(self, one: Ask, live: ToolResult) -> Comparison:
        assert one.chosen is not None
        if live.is_error and error_class(live) is ErrorClass.TRANSIENT:
            return Comparison(one.call.name, one.tier.value, diverged=False, failed=True, example=None)
        content = self.redactor.value(live.content)
        diverged = result_digest(content, live.is_error, one.spec) != bytes(one.chosen.digest)
        example = {
            "arguments": one.arguments,
            "scenario": one.item.scenario,
            "entry": one.chosen.entry,
            "live": {"content": content, "is_error": live.is_error},
            "seen_at": datetime.now(UTC),
        }
        said = to_json(example).decode() if diverged else None
        return Comparison(one.call.name, one.tier.value, diverged=diverged, failed=False, example=said)

    async def _count(self, found: Sequence[Comparison]) -> None:
        by_tool: dict[tuple[str, str], list[Comparison]] = {}
        for one in found:
            by_tool.setdefault((one.tool, one.tier), []).append(one)
        groups = sorted(by_tool.items())
        values = {
            "cache": self.pins.cache,
            "tools": [tool for (tool, _), _ in groups],
            "tiers": [tier for (_, tier), _ in groups],
            "compared": [sum(not one.failed for one in group) for _, group in groups],
            "diverged": [sum(one.diverged for one in group) for _, group in groups],
            "failed": [sum(one.failed for one in group) for _, group in groups],
            "examples": [next((one.example for one in reversed(group) if one.example), None) for _, group in groups],
        }
        try:
            async with self.parts.database.tenant(self.tenant) as connection:
                await connection.execute(queries.count_divergence, values)
        except (DatabaseError, PoolTimeout) as error:
            log.warning("comparisons not counted", action="shadow", error=type(error).__name__)
