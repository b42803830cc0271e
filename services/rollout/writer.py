"""Writes the episodes of one rollout as they finish, many to a transaction, each transaction under the rollout's fence.

Who lost the lease writes nothing: the fence is part of the transaction that holds the episodes.
"""

import asyncio
from types import TracebackType
from typing import Self

from cacherl.episode import Episode
from services.kit.postgres import Database
from services.rollout import store
from services.rollout.bell import Bell
from services.rollout.store import queries
from services.rollout.tallies import Tallies

GATHER_S = 0.03
AT_MOST = 256
MOST_WAITING = 1024


class LostError(Exception):
    """The rollout has another owner by now."""


class EpisodeWriter:
    """Takes finished episodes and writes them behind the caller's back; leaving the block waits until all are written."""

    def __init__(
        self, database: Database, tenant: str, rollout: str, fence: int, lease_s: float, done: int, tallies: Tallies, bell: Bell
    ) -> None:
        self._database, self._tenant, self._rollout, self._fence, self._lease_s = database, tenant, rollout, fence, lease_s
        self.done, self.tallies, self._bell = done, tallies, bell
        self._queue: asyncio.Queue[Episode | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self.cancel_requested = False

    async def put(self, episode: Episode) -> None:
        """Hands an episode over. Raises what writing raised: LostError, or the database's error."""
        assert self._task is not None
        while self._queue.qsize() >= MOST_WAITING and not self._task.done():
            await asyncio.wait({self._task}, timeout=GATHER_S)
        if self._task.done():
            await self._task
        self._queue.put_nowait(episode)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._task is not None
        if kind is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            return
        if not self._task.done():
            self._queue.put_nowait(None)
        await self._task

    async def _work(self) -> None:
        more = True
        while more:
            batch = [await self._queue.get()]
            if batch[0] is not None:
                await asyncio.sleep(GATHER_S)
            while len(batch) < AT_MOST and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            episodes = [episode for episode in batch if episode is not None]
            more = len(episodes) == len(batch)
            if episodes:
                await self._write(episodes)

    async def _write(self, episodes: list[Episode]) -> None:
        for episode in episodes:
            self.tallies.add(episode)
        self.done += len(episodes)
        fence = {"id": self._rollout, "fence": self._fence, "lease": self._lease_s}
        async with self._database.tenant(self._tenant) as connection:
            held = await store.row(
                connection, queries.advance_rollout, fence | {"done": self.done, "tallies": store.as_json(self.tallies.document())}
            )
            if held is None:
                raise LostError
            await store.add_episodes(connection, episodes)
        self.cancel_requested = self.cancel_requested or held["cancel_requested"]
        self._bell.ring()
