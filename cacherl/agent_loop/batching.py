"""Batching front ends: turns that are ready in the same tick go to the engine as one batch, lookups to the cache likewise.

Each caller awaits its own answer and sees its own failure; a request that is refused because of one item is asked again item by item, so a
bad item never takes its neighbours with it. A caller that gives up leaves its batch; a batch that everybody left is aborted.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

from cacherl.api.cache import LookupItem, LookupItemAnswer
from cacherl.engine import Completion, Engine, GenerationRequest, PolicyVersion
from cacherl.errors import AwayError, CacheRLError, EngineError, ServiceError
from cacherl.tool_cache import ToolCache

MAX_ITEMS = 256
Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Ticket(Generic[Ask, Answer]):
    """One caller's question and where its answer goes."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def resolve(self, answer: Answer) -> None:
        """Gives the answer, unless the caller has gone."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Gives an error, unless the caller has gone."""
        if not self.future.done():
            self.future.set_exception(error)


class _Gatherer(Generic[Ask, Answer]):
    """Collects tickets for `window_s` from the first on, then hands them over as one batch."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._waiting: list[Ticket[Ask, Answer]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def _ask(self, ask: Ask) -> Answer:
        if not self._waiting:
            asyncio.get_running_loop().call_later(self._window_s, self._flush)
        ticket: Ticket[Ask, Answer] = Ticket(ask)
        self._waiting.append(ticket)
        return await ticket.future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch = [ticket for ticket in waiting if not ticket.future.done()]
        for start in range(0, len(batch), MAX_ITEMS):
            self._start(batch[start : start + MAX_ITEMS])

    def _start(self, batch: list[Ticket[Ask, Answer]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        waiting, gone = len(batch), False

        def left(future: asyncio.Future[Answer]) -> None:
            nonlocal waiting, gone
            waiting, gone = waiting - 1, gone or future.cancelled()
            if waiting == 0 and gone:
                task.cancel()

        for ticket in batch:
            ticket.future.add_done_callback(left)

    async def _run(self, batch: list[Ticket[Ask, Answer]]) -> None:
        try:
            await self._answer(batch)
        except asyncio.CancelledError:
            for ticket in batch:
                ticket.future.cancel()
        except Exception as error:
            # Every caller records it on its own episode; nothing is lost here.
            for ticket in batch:
                ticket.fail(error)

    async def _answer(self, batch: list[Ticket[Ask, Answer]]) -> None:
        raise AssertionError("a gatherer says how it answers")

    async def close(self) -> None:
        """Aborts what is in flight."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class EngineBatcher(_Gatherer[GenerationRequest, Completion]):
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


class LookupBatcher(_Gatherer[LookupItem, LookupItemAnswer]):
    """One pinned cache, asked by many episodes."""

    def __init__(self, cache: ToolCache, *, window_s: float = 0.002) -> None:
        super().__init__(window_s)
        self.cache = cache

    async def lookup(self, item: LookupItem) -> LookupItemAnswer:
        """The answers to one turn's calls. Errors: those of the cache."""
        return await self._ask(item)

    async def _answer(self, batch: list[Ticket[LookupItem, LookupItemAnswer]]) -> None:
        try:
            answers = await self.cache.lookup([ticket.ask for ticket in batch])
        except AwayError:
            raise
        except CacheRLError:
            if len(batch) == 1:
                raise
            await asyncio.gather(*(self._run([ticket]) for ticket in batch))
            return
        _demand_match([ticket.ask for ticket in batch], answers)
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.resolve(answer)


def _demand_match(items: Sequence[LookupItem], answers: Sequence[LookupItemAnswer]) -> None:
    if [len(item.calls) for item in items] != [len(answer.results) for answer in answers]:
        raise ServiceError("the cache answered other calls than were asked")


async def _close(stream: AsyncIterator[Any]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
