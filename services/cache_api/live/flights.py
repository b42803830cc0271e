"""Single flight: of many who need the same live call of a run, one makes it and the others read what it stored.

A flight is a full key of a run. Who holds its row in Postgres makes the call, whichever replica it is in, and renews the lease meanwhile.
A holder that dies is followed by another when its lease ends. A lease is no lock on what is stored: a holder that was frozen past its lease
may find that another made the call too, and both recordings stand.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from services.cache_api import store
from services.cache_api.ask import Ask
from services.cache_api.live.landings import Landings
from services.cache_api.live.writing import queries
from services.cache_api.lookup import Pins
from services.kit.identifiers import new_id
from services.kit.postgres import Database

POLL_S = 0.05
log = structlog.get_logger(__name__)


def flight_of(one: Ask, pins: Pins, run: str) -> bytes:
    """The flight that a call belongs to, 16 bytes."""
    name = hashlib.blake2b(digest_size=16)
    for part in (run.encode(), pins.view.id.encode(), one.item.scenario.encode(), one.key, one.scoped_state or b""):
        name.update(len(part).to_bytes(4, "big") + part)
    return name.digest()


class Flights:
    """The flights of one request."""

    def __init__(self, database: Database, landings: Landings, tenant: str, cache: str, lease_s: float) -> None:
        self.database, self.landings, self.tenant, self.cache, self.lease_s = database, landings, tenant, cache, lease_s
        self.holder = new_id("flt")

    async def take(self, flights: Sequence[bytes]) -> list[bytes]:
        """Those of them that are this request's now."""
        async with self.database.tenant(self.tenant) as connection:
            return [bytes(found["flight"]) for found in await store.rows(connection, queries.take_flights, self._values(flights))]

    @asynccontextmanager
    async def held(self, flights: Sequence[bytes]) -> AsyncIterator[None]:
        """Keeps taken flights within the block, and lets go of them at its end, however it ends."""
        beat = asyncio.create_task(self._renew(flights))
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.shield(asyncio.ensure_future(self._release(flights)))

    async def wait(self, flights: Sequence[bytes]) -> None:
        """Until one of them may be free."""
        await self.landings.wait(flights, POLL_S)

    async def _renew(self, flights: Sequence[bytes]) -> None:
        while True:
            await asyncio.sleep(self.lease_s / 3)
            try:
                async with self.database.tenant(self.tenant) as connection:
                    await connection.execute(queries.renew_flights, self._values(flights))
            except (DatabaseError, PoolTimeout) as error:
                log.warning("leases not renewed", action="live", error=type(error).__name__)

    async def _release(self, flights: Sequence[bytes]) -> None:
        try:
            async with self.database.tenant(self.tenant) as connection:
                await connection.execute(queries.release_flights, self._values(flights))
        except (DatabaseError, PoolTimeout) as error:  # the leases end by themselves
            log.warning("leases not released", action="live", error=type(error).__name__)
        self.landings.ended(flights)

    def _values(self, flights: Sequence[bytes]) -> dict[str, object]:
        return {"cache": self.cache, "flights": list(flights), "holder": self.holder, "lease": self.lease_s}
