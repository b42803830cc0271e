"""How many live calls a run may make: counted before they are made, so that it is never exceeded, whoever makes them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cacherl.errors import ConflictError, LiveToolError
from services.cache_api import store
from services.cache_api.live.call import LostCallsError
from services.cache_api.live.writing import queries
from services.kit.postgres import Database


class Budget:
    """The budget of one run; None: as many as it needs."""

    def __init__(self, database: Database, tenant: str, cache: str, run: str, calls: int | None) -> None:
        self.database, self.tenant, self.calls = database, tenant, calls
        self._who = {"cache": cache, "run": run}

    async def spend(self, wanted: int) -> int:
        """How many of the wanted calls may be made."""
        if self.calls is None or wanted == 0:
            return wanted
        async with self.database.tenant(self.tenant) as connection:
            found = await store.row(connection, queries.spend, self._who | {"wanted": wanted, "budget": self.calls})
            granted = found["calls"] if found is not None else 0
            await connection.execute(queries.spent, self._who | {"calls": granted})
        return granted

    @asynccontextmanager
    async def counted(self, calls: int) -> AsyncIterator[None]:
        """Around calls that were granted: gives them back where they fail and for certain reached no tool."""
        try:
            yield
        except LostCallsError:  # they may have been made
            raise
        except (LiveToolError, ConflictError):
            await self._give_back(calls)
            raise

    async def _give_back(self, calls: int) -> None:
        if self.calls is None:
            return
        async with self.database.tenant(self.tenant) as connection:
            await connection.execute(queries.spent, self._who | {"calls": -calls})
