"""How calls were answered, counted beside the hot path: in memory, written every second and before anybody reads the counts.

Counts are for people: a process that dies takes at most a second of them along. A miss is counted with its arguments, so that a cache can
say what to record next.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog
from psycopg import Error as DatabaseError
from psycopg.errors import ForeignKeyViolation
from psycopg_pool import PoolTimeout
from pydantic_core import to_json

from cacherl.tier import Tier
from services.cache_api.ask import Ask
from services.cache_api.coverage import MISSES_KEPT, PRUNE_EVERY, shortened
from services.cache_api.purge import operations
from services.cache_api.store import queries
from services.kit.postgres import AsyncRows, Database

EVERY_S = 1.0
MAX_DISTINCT_MISSES = 10_000
"""Between two writes; what goes beyond is counted by outcome alone."""
LIVE = "live"
"""What a live tool answered was no hit, and nothing that is missing."""
Owner = tuple[str, str]
log = structlog.get_logger(__name__)


class Counted(NamedTuple):
    """An answered call as it is counted."""

    tool: str
    outcome: str
    key: bytes
    arguments: dict[str, Any]
    """Without secrets; kept of a miss alone."""


def counted(one: Ask) -> Counted:
    """What an answered call adds to the counts."""
    outcome = "malformed" if one.malformed is not None else LIVE if one.live else one.tier.value
    return Counted(one.call.name, outcome, one.key, one.arguments if outcome == Tier.MISS else {})


class Tally:
    """Counts of this process that are not written yet."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._outcomes: Counter[tuple[Owner, str, str]] = Counter()
        self._misses: Counter[tuple[Owner, bytes]] = Counter()
        self._missed: dict[tuple[Owner, bytes], tuple[str, str]] = {}
        self._since_pruned: Counter[Owner] = Counter()
        self._writing = asyncio.Lock()

    def count(self, tenant: str, cache: str, calls: Iterable[Counted]) -> None:
        """Counts answered calls."""
        owner = (tenant, cache)
        for one in calls:
            self._outcomes[owner, one.tool.replace("\0", "\ufffd"), one.outcome] += 1
            if one.outcome == Tier.MISS:
                self._miss(owner, one)

    def _miss(self, owner: Owner, one: Counted) -> None:
        slot = (owner, one.key)
        if slot not in self._missed:
            if len(self._missed) >= MAX_DISTINCT_MISSES:
                return
            self._missed[slot] = (one.tool.replace("\0", "\ufffd"), to_json(shortened(one.arguments)).decode())
        self._misses[slot] += 1

    async def flush(self) -> None:
        """Writes what was counted; what cannot be written is kept for the next time."""
        async with self._writing:
            outcomes, misses, missed = self._outcomes, self._misses, self._missed
            self._outcomes, self._misses, self._missed = Counter(), Counter(), {}
            for owner in {owner for owner, _, _ in outcomes} | {owner for owner, _ in misses}:
                try:
                    await self._write(owner, outcomes, misses, missed)
                except ForeignKeyViolation:
                    log.info("counts dropped", action="tally", cache=owner[1], reason="the cache was deleted")
                except (DatabaseError, PoolTimeout) as error:
                    log.warning("counts not written", action="tally", error=type(error).__name__)
                    self._outcomes += Counter({slot: n for slot, n in outcomes.items() if slot[0] == owner})
                    self._misses += Counter({slot: n for slot, n in misses.items() if slot[0] == owner})
                    self._missed |= {slot: said for slot, said in missed.items() if slot[0] == owner}

    async def _write(
        self,
        owner: Owner,
        outcomes: Counter[tuple[Owner, str, str]],
        misses: Counter[tuple[Owner, bytes]],
        missed: dict[tuple[Owner, bytes], tuple[str, str]],
    ) -> None:
        tenant, cache = owner
        # Sorted: two replicas that write the same rows take their locks in one order.
        counted = sorted((tool, outcome, n) for (who, tool, outcome), n in outcomes.items() if who == owner)
        lacking = sorted((key, *missed[who, key], n) for (who, key), n in misses.items() if who == owner)
        async with self.database.tenant(tenant) as connection:
            if counted:
                tools, names, counts = (list(column) for column in zip(*counted, strict=True))
                await connection.execute(queries.count_lookups, {"cache": cache, "tools": tools, "outcomes": names, "counts": counts})
            if lacking:
                keys, tools, arguments, counts = (list(column) for column in zip(*lacking, strict=True))
                await connection.execute(
                    queries.count_misses, {"cache": cache, "keys": keys, "tools": tools, "arguments": arguments, "counts": counts}
                )
                await self._bound(connection, owner, len(lacking))

    async def _bound(self, connection: AsyncRows, owner: Owner, more: int) -> None:
        """Keeps the most frequent misses of a cache, now and then."""
        self._since_pruned[owner] += more
        if self._since_pruned[owner] >= PRUNE_EVERY:
            self._since_pruned[owner] = 0
            await connection.execute(operations.prune_misses, {"cache": owner[1], "keep": MISSES_KEPT})

    async def run(self) -> None:
        """Writes every second, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.flush()
