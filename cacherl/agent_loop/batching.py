"""Batching front ends: turns that are ready in the same tick go to the engine as one batch, lookups to the cache likewise.

How callers are gathered, fail and give up is `cacherl.gathering`'s; here is what a batch asks.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from cacherl.api.cache import LookupItem, LookupItemAnswer
from cacherl.engine import Completion, Engine, GenerationRequest, PolicyVersion
from cacherl.errors import CacheRLError, EngineError, ServiceError
from cacherl.gathering import MAX_ITEMS, ApartGatherer, Gatherer, Ticket
from cacherl.tool_cache import ToolCache


class EngineBatcher(Gatherer[GenerationRequest, Completion]):
    """One policy version of one engine, asked by many episodes."""

    def __init__(self, engine: Engine, policy: PolicyVersion, *, window_s: float = 0.002) -> None:
        super().__init__(window_s)
        self.engine = engine
        self.policy = policy
        self._finished: list[str] = []

    async def generate(self, request: GenerationRequest) -> Completion:
        """The completion of one request. Errors: `EngineError` when the engine is away or answers what was not asked."""
        return await self._ask(request)

    def finished(self, episode: str) -> None:
        """Notes that an episode needs its KV rows no more; told to the engine with the next batch."""
        self._finished.append(episode)

    async def _answer(self, batch: list[Ticket[GenerationRequest, Completion]]) -> None:
        if self._finished:
            # Beside the turns: nobody waits for rows to be let go of.
            forgetting = asyncio.get_running_loop().create_task(self._forget())
            self._tasks.add(forgetting)
            forgetting.add_done_callback(self._tasks.discard)
        asked = {ticket.ask.id: ticket for ticket in batch}
        stream = self.engine.generate(self.policy, [ticket.ask for ticket in batch])
        try:
            async for completion in stream:
                ticket = asked.pop(completion.id, None)
                if ticket is None:
                    raise EngineError("the engine answered a request that was not made")
                ticket.resolve(completion)
        finally:
            await _close(stream)
        if asked:
            raise EngineError(f"the engine ended its answer {len(asked)} completions early")

    async def _forget(self) -> None:
        finished, self._finished = self._finished, []
        if not finished:
            return
        try:
            await self.engine.forget(finished)
        except CacheRLError:
            self._finished += finished  # rows are only memory: the next batch tries again

    async def close(self) -> None:
        """Aborts what is in flight and lets go of the finished episodes' rows."""
        await super().close()
        await self._forget()


class LookupBatcher(ApartGatherer[LookupItem, LookupItemAnswer]):
    """One pinned cache, asked by many episodes. `alone`: each item is a request of its own, for live calls that must not be made twice."""

    def __init__(self, cache: ToolCache, *, window_s: float = 0.002, alone: bool = False) -> None:
        super().__init__(window_s, max_items=1 if alone else MAX_ITEMS)
        self.cache = cache

    async def lookup(self, item: LookupItem) -> LookupItemAnswer:
        """The answers to one turn's calls. Errors: those of the cache."""
        return await self._ask(item)

    async def _answers(self, asks: list[LookupItem]) -> list[LookupItemAnswer]:
        answers = await self.cache.lookup(asks)
        _demand_match(asks, answers)
        return answers


def _demand_match(items: Sequence[LookupItem], answers: Sequence[LookupItemAnswer]) -> None:
    if [len(item.calls) for item in items] != [len(answer.results) for answer in answers]:
        raise ServiceError("the cache answered other calls than were asked")


async def _close(stream: AsyncIterator[Any]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
