"""The SDK from code without an event loop: one loop in a thread of its own runs the coroutines.

with Blocking() as run:
client = run(open_client(url, key))
cache = run(client.cache.get("demo"))
for episode in run.each(client.rollout.episodes(rollout)): …
"""

from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")
_END = object()


class Blocking:
    """Runs coroutines of the async SDK and waits for them."""

    def __init__(self) -> None:
        self._start: AbstractContextManager[BlockingPortal] = start_blocking_portal()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        self._portal = self._start.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._portal = None
        self._start.__exit__(kind, error, trace)

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for one coroutine."""

        async def run() -> T:
            return await coroutine

        return self._open.call(run)

    def each(self, iterator: AsyncIterator[T]) -> Iterator[T]:
        """Iterates over an async iterator."""

        async def step() -> Any:
            return await anext(iterator, _END)

        while (item := self._open.call(step)) is not _END:
            yield item

    @property
    def _open(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("use `with Blocking() as run:`")
        return self._portal
