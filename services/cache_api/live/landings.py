"""Those in this process who wait for a live call that somebody else makes."""

import asyncio
from collections.abc import Sequence


class Landings:
    """Tells those who wait in this process that a flight has ended."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, asyncio.Event] = {}

    def ended(self, flights: Sequence[bytes]) -> None:
        """Wakes who waits for these."""
        for flight in flights:
            event = self._waiting.pop(flight, None)
            if event is not None:
                event.set()

    async def wait(self, flights: Sequence[bytes], seconds: float) -> None:
        """Returns when one of these has ended here, or after so long: it may have ended elsewhere."""
        tasks = [asyncio.create_task(self._waiting.setdefault(flight, asyncio.Event()).wait()) for flight in flights]
        try:
            await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
