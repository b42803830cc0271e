"""Wakes those who wait in this process; who waits for another process's doing looks again after a while.

Listen first, then look, then wait: a ring between the look and the wait is heard.
"""

import asyncio


class Bell:
    """`ring` wakes everybody who listens."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Wakes them."""
        self._next.set()
        self._next = asyncio.Event()

    def listen(self) -> "Listener":
        """Hears every ring from now on."""
        return Listener(self._next)


class Listener:
    """Waits for the first ring since it listens."""

    def __init__(self, event: asyncio.Event) -> None:
        self._event = event

    async def wait(self, seconds: float) -> None:
        """Returns at a ring, after `seconds` at the latest."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
