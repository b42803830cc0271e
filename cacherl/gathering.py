"""Gathering: the questions of many callers become few requests.

A caller awaits its own answer and sees its own failure. What is asked in one window goes as one batch, in the order it was asked; with a
limit of batches in flight, what comes meanwhile waits and goes together, so batches grow with the load and nobody waits where there is
none. A caller that gives up leaves its batch; a batch that everybody left is aborted. `ApartGatherer` also asks again without those that
a refusal is about, so one bad question never takes its neighbours with it.
"""

import asyncio
import copy
import re
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from cacherl.errors import AwayError, CacheRLError, ForbiddenError, GoneError, NotFoundError, ServiceError, UnauthenticatedError

MAX_ITEMS = 256
Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_EVERYBODYS = (UnauthenticatedError, ForbiddenError, NotFoundError, GoneError)
"""Refusals that are about the request as a whole: the key, the cache, what it is pinned to."""
_POSITION = re.compile(r"/items/(\d+)(?=/|$)")


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


class Gatherer(Generic[Ask, Answer]):
    """Collects tickets for `window_s` from the first on (0: until the event loop's next tick), then hands them over as one batch.

    `in_flight` limits how many batches are under way at once; None is no limit.
    """

    def __init__(self, window_s: float, *, max_items: int = MAX_ITEMS, in_flight: int | None = None) -> None:
        self._window_s = window_s
        self._max_items = max_items
        self._in_flight = in_flight
        self._waiting: list[Ticket[Ask, Answer]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches = 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits here."""
        return not self._waiting and not self._tasks

    async def _ask(self, ask: Ask) -> Answer:
        if not self._waiting:
            loop = asyncio.get_running_loop()
            if self._window_s > 0:
                loop.call_later(self._window_s, self._flush)
            else:
                loop.call_soon(self._flush)
        ticket: Ticket[Ask, Answer] = Ticket(ask)
        self._waiting.append(ticket)
        return await ticket.future

    def _flush(self) -> None:
        while self._waiting and (self._in_flight is None or self._batches < self._in_flight):
            batch = [ticket for ticket in self._waiting[: self._max_items] if not ticket.future.done()]
            del self._waiting[: self._max_items]
            if batch:
                self._start(batch)

    def _start(self, batch: list[Ticket[Ask, Answer]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks.add(task)
        self._batches += 1
        task.add_done_callback(self._ended)

        waiting, gone = len(batch), False

        def left(future: asyncio.Future[Answer]) -> None:
            nonlocal waiting, gone
            waiting, gone = waiting - 1, gone or future.cancelled()
            if waiting == 0 and gone:
                task.cancel()

        for ticket in batch:
            ticket.future.add_done_callback(left)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._batches -= 1
        self._flush()

    async def _run(self, batch: list[Ticket[Ask, Answer]]) -> None:
        try:
            await self._answer(batch)
        except asyncio.CancelledError:
            for ticket in batch:
                ticket.future.cancel()
        except Exception as error:
            # Every caller sees it as its own; nothing is lost here.
            for ticket in batch:
                ticket.fail(error)

    async def _answer(self, batch: list[Ticket[Ask, Answer]]) -> None:
        raise AssertionError("a gatherer says how it answers")

    async def close(self) -> None:
        """Aborts what is in flight and lets go of those that wait."""
        waiting, self._waiting = self._waiting, []
        for ticket in waiting:
            ticket.future.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ApartGatherer(Gatherer[Ask, Answer]):
    """A gatherer whose batches may be refused because of one question: the others are asked again without it.

    Only for questions that may be asked twice. A refusal that names its items (`/items/3/…`) ends those; one that does not is looked for
    by halves; one that is about the request as a whole, or a service that is away, is everybody's.
    """

    async def _answer(self, batch: list[Ticket[Ask, Answer]]) -> None:
        try:
            answers = await self._answers([ticket.ask for ticket in batch])
        except CacheRLError as error:
            if len(batch) == 1 or isinstance(error, (AwayError, *_EVERYBODYS)):
                raise
            await self._apart(batch, error)
            return
        if len(answers) != len(batch):
            raise ServiceError("the service answered other questions than were asked")
        for ticket, answer in zip(batch, answers, strict=True):
            ticket.resolve(answer)

    async def _answers(self, asks: list[Ask]) -> Sequence[Answer]:
        raise AssertionError("a gatherer says how it asks")

    async def _apart(self, batch: list[Ticket[Ask, Answer]], error: CacheRLError) -> None:
        named = _named(error, len(batch))
        for position, errors in named.items():
            own = copy.copy(error)
            own.errors = errors
            batch[position].fail(own)
        if named:
            groups = [[ticket for position, ticket in enumerate(batch) if position not in named]]
        else:
            middle = len(batch) // 2
            groups = [batch[:middle], batch[middle:]]
        await asyncio.gather(*(self._run(group) for group in groups if group))


def _named(error: CacheRLError, count: int) -> dict[int, list[dict[str, Any]]]:
    """What a refusal says of each item, as if the item had been asked alone; nothing where it does not name one for each fault."""
    found: dict[int, list[dict[str, Any]]] = {}
    for fault in error.errors:
        pointer = str(fault.get("pointer") or "")
        match = _POSITION.match(pointer)
        if match is None or int(match[1]) >= count:
            return {}
        found.setdefault(int(match[1]), []).append({**fault, "pointer": "/items/0" + pointer[match.end() :]})
    return found
