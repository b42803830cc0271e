"""Work that goes on after an answer was given: bounded, and ended with the service."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

MAX_RUNNING = 64
LAST_S = 5.0
log = structlog.get_logger(__name__)


class Shadows:
    """Comparisons under way in this process."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self.left_out = 0
        """Comparisons that were not made, since too many were under way."""

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts it, unless too much is under way: the sample gets smaller, never the service slower."""
        if len(self._running) >= MAX_RUNNING:
            work.close()
            self.left_out += 1
            return
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a comparison failed", action="shadow", exc_info=task.exception())

    async def idle(self) -> None:
        """Until nothing is under way."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Gives what is under way a moment to end."""
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_S)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
