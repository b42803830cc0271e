"""Claims rollouts and policies, and works on several at once; Postgres is the truth, the bell only spares the wait."""

import asyncio
from typing import Any

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from cacherl.engine import PolicyVersion
from cacherl.errors import AwayError, CacheRLError
from cacherl.jobs import JobState
from services.rollout import store
from services.rollout.fleet import Weights
from services.rollout.parts import Parts
from services.rollout.play import Play, adopt_trace
from services.rollout.store import Row, queries

PUBLISH_LEASE_S = 600.0
PUBLISH_RETRY_S = 1.0
PUBLISH_ATTEMPTS = 60
log = structlog.get_logger(__name__)


class Runner:
    """The process's own work, beside its requests."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._playing: dict[str, Play] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def cancel(self, rollout: str) -> None:
        """Tells a rollout that plays in this process; one of another process hears of it with its next beat."""
        if rollout in self._playing:
            self._playing[rollout].cancel()

    async def run(self) -> None:
        """Works until it is cancelled; a database that is away is waited for."""
        try:
            while True:
                bell = self._parts.bell.listen()
                try:
                    if await self._claim():
                        continue
                except (DatabaseError, PoolTimeout) as error:
                    log.warning("no work can be claimed", action="claim", error=type(error).__name__)
                await bell.wait(self._parts.settings.poll_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _claim(self) -> bool:
        """Begins what can begin; False where there was nothing."""
        settings = self._parts.settings
        async with self._parts.database.system() as connection:
            policy = await store.row(connection, queries.claim_policy, {"lease": PUBLISH_LEASE_S})
            rollout = None
            if len(self._playing) < settings.concurrent_rollouts:
                rollout = await store.row(connection, queries.claim_rollout, {"lease": settings.lease_s, "crashes": settings.max_crashes})
        if policy is not None:
            self._start(self._publish(policy))
        if rollout is not None:
            play = Play(self._parts, rollout)
            self._playing[play.id] = play
            self._start(self._play(play, rollout))
        return policy is not None or rollout is not None

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, play: Play, claimed: Row) -> None:
        adopt_trace(claimed)
        try:
            await play.run()
        except (DatabaseError, PoolTimeout) as error:
            log.warning("rollout left", action="rollout", rollout=play.id, error=type(error).__name__)
        finally:
            self._playing.pop(play.id, None)
            self._parts.bell.ring()

    async def _publish(self, claimed: Row) -> None:
        """Tells every engine; one that is away is tried again for a while."""
        weights = Weights(PolicyVersion(name=claimed["name"], version=claimed["version"]), claimed["path"], claimed["sha256"])
        state, reason = JobState.SUCCEEDED, None
        try:
            await self._parts.fleet.publish(weights)
        except AwayError as error:
            state = JobState.WAITING if claimed["attempt"] < PUBLISH_ATTEMPTS else JobState.FAILED
            reason = error.problem()
        except CacheRLError as error:
            state, reason = JobState.FAILED, error.problem()
        if reason is not None:
            log.warning("a policy is not held everywhere", action="publish", policy=str(weights.policy), state=state.value)
        values = {"name": claimed["name"], "version": claimed["version"], "attempt": claimed["attempt"]}
        values |= {"state": state.value, "reason": store.as_json(reason), "seconds": PUBLISH_RETRY_S if state is JobState.WAITING else 0}
        try:
            async with self._parts.database.tenant(claimed["tenant"]) as connection:
                await store.row(connection, queries.move_policy, values)
        except (DatabaseError, PoolTimeout) as error:
            log.warning("a publication is tried again", action="publish", error=type(error).__name__)
        self._parts.bell.ring()
