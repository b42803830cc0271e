"""How fast one process may call an endpoint: calls in flight, calls a minute, and a pause when the endpoint asks for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Pace:
    """Give `turn()` to every call; `pause` holds back all later ones."""

    def __init__(self, *, concurrency: int, per_minute: float | None) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._gap_s = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a free slot and for its moment."""
        async with self._slots:
            await self._moment()
            yield

    async def _moment(self) -> None:
        now = asyncio.get_running_loop().time()
        mine = max(now, self._next)
        self._next = mine + self._gap_s
        if mine > now:
            await asyncio.sleep(mine - now)

    def pause(self, seconds: float) -> None:
        """No later call begins within `seconds`."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)
