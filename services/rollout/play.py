"""Plays one claimed rollout from where it stands to an end.

Episodes that are there already are kept, the rest is played; a lost lease stops everything without a write; something that is away puts the
rollout back as `waiting`; a process that stops puts it back as `queued`. The tenant's rights are a delegation that ends with the rollout.
"""

import asyncio
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.api.rollout import RolloutCreate
from cacherl.errors import AwayError, CacheRLError
from cacherl.jobs import JobState
from cacherl.tool_cache import CachePins
from cacherl.trajectory import Task
from services.kit import trace
from services.kit.auth import Caller, Scope, delegate, end_delegations, known_scopes, renew
from services.kit.identifiers import new_id
from services.rollout import store
from services.rollout.fleet import Weights
from services.rollout.parts import Parts
from services.rollout.store import Row, queries
from services.rollout.stored import read_task
from services.rollout.tallies import Tallies
from services.rollout.writer import EpisodeWriter, LostError

DELEGATION_S = 3600.0
log = structlog.get_logger(__name__)


def needed_scopes(request: RolloutCreate) -> frozenset[Scope]:
    """What playing needs of the caller: replaying only reads, every other mode makes live calls and writes into the cache."""
    return frozenset({Scope.CACHE_READ} if request.mode == "replay" else {Scope.CACHE_READ, Scope.CACHE_WRITE})


class Play:
    """One claimed rollout."""

    def __init__(self, parts: Parts, claimed: Row) -> None:
        self._parts, self._claimed = parts, claimed
        self.id, self._tenant = claimed["id"], claimed["tenant"]
        self._fence = {"id": self.id, "fence": claimed["fence"]}
        self._token = ""
        self._agent: CacheAgentLoop | None = None
        self._cancel_requested = claimed["cancel_requested"]
        self._lost = False

    def cancel(self) -> None:
        """Somebody asked for the rollout's end: what runs is yielded as cancelled."""
        self._cancel_requested = True
        if self._agent is not None:
            self._agent.cancel()

    async def run(self) -> None:
        """Plays it; returns when it is over, put back or lost."""
        me = asyncio.current_task()
        assert me is not None
        beat = asyncio.create_task(self._beat(me))
        try:
            await self._play()
        except LostError:
            log.warning("rollout lost", action="rollout", rollout=self.id)
        except AwayError as error:
            log.warning("rollout waits", action="rollout", rollout=self.id, reason=error.problem_slug)
            await self._put_back(JobState.WAITING, error.problem(), self._parts.settings.retry_s)
        except CacheRLError as error:
            await self._end(JobState.FAILED, error.problem())
        except asyncio.CancelledError:
            if self._lost:
                log.warning("rollout lost", action="rollout", rollout=self.id)
                return
            await asyncio.shield(self._put_back(JobState.QUEUED, None, 0))
            raise
        except (DatabaseError, PoolTimeout) as error:
            # The lease runs out and somebody goes on, here or elsewhere.
            log.warning("rollout left", action="rollout", rollout=self.id, error=type(error).__name__)
        except Exception:
            log.exception("rollout failed", action="rollout", rollout=self.id)
            await self._end(JobState.FAILED, CacheRLError("An unexpected error; the log has it under this rollout's id.").problem())
        finally:
            beat.cancel()
            self._parts.bell.ring()

    async def _play(self) -> None:
        request, tasks, skip = await self._load()
        pinned = self._claimed["request"]
        pins = CachePins(name=request.cache, revision=pinned["revision"], view=pinned["view"], as_of=pinned["as_of"])
        weights = await self._weights(request)
        self._token = await self._delegation(request)
        tallies = Tallies(**self._claimed["tallies"])
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(self._parts.fleet.least_busy(weights))
            cache = await stack.enter_async_context(self._parts.caches.open(self._token, self.id, request, pins))
            renderer = self._parts.renderers.at(weights.path)
            self._agent = CacheAgentLoop(renderer, engine, cache, self._config(request))
            if self._cancel_requested:
                self._agent.cancel()
            writer = await stack.enter_async_context(
                EpisodeWriter(
                    self._parts.database,
                    self._tenant,
                    self.id,
                    self._claimed["fence"],
                    self._parts.settings.lease_s,
                    len(skip),
                    tallies,
                    self._parts.bell,
                )
            )
            episodes = await stack.enter_async_context(aclosing(self._agent.run(tasks, request.group_size, skip=skip)))
            last_error: dict[str, Any] | None = None
            async for episode in episodes:
                last_error = episode.error or last_error
                await writer.put(episode)
                if writer.cancel_requested:
                    self.cancel()
        if self._cancel_requested:
            await self._end(JobState.CANCELLED, None)
        elif tallies.failed and tallies.failed == writer.done:
            await self._end(JobState.FAILED, last_error)
        else:
            await self._end(JobState.SUCCEEDED, None)

    async def _load(self) -> tuple[RolloutCreate, list[Task], set[tuple[int, int]]]:
        hashes = self._claimed["tasks"]
        async with self._parts.database.tenant(self._tenant) as connection:
            bodies = {row["hash"]: row["body"] for row in await store.rows(connection, queries.tasks, {"hashes": list(set(hashes))})}
            finished = await store.rows(connection, queries.finished_episodes, {"id": self.id})
        known = {number: read_task(body) for number, body in bodies.items()}
        tasks = [known[number] for number in hashes]
        request = RolloutCreate.model_validate(self._claimed["request"] | {"tasks": tasks})
        return request, tasks, {(row["group"], row["index"]) for row in finished}

    async def _weights(self, request: RolloutCreate) -> Weights:
        async with self._parts.database.tenant(self._tenant) as connection:
            found = await store.find_policy(connection, request.policy)
        return Weights(request.policy, found["path"], found["sha256"])

    async def _delegation(self, request: RolloutCreate) -> str:
        caller = Caller(self._tenant, known_scopes(self._claimed["scopes"]), self._claimed["key_id"])
        return await delegate(self._parts.database, caller, scopes=needed_scopes(request), job_id=self.id, lifetime_s=DELEGATION_S)

    def _config(self, request: RolloutCreate) -> LoopConfig:
        return LoopConfig(
            policy=request.policy,
            rollout=self.id,
            seed=request.seed,
            preset=request.preset,
            mode=request.mode,
            limits=request.limits,
            sampling=request.sampling,
            thinking=request.thinking,
            concurrency=self._parts.settings.concurrent_episodes,
            new_id=lambda: new_id("eps"),
        )

    async def _beat(self, me: asyncio.Task[Any]) -> None:
        """Keeps the lease and the delegation; stops the play where the lease is lost, cancels it where somebody asked for that."""
        settings = self._parts.settings
        while True:
            await asyncio.sleep(settings.beat_s)
            try:
                async with self._parts.database.tenant(self._tenant) as connection:
                    held = await store.row(connection, queries.beat_rollout, self._fence | {"lease": settings.lease_s})
                if self._token:
                    await renew(self._parts.database, self._token, lifetime_s=DELEGATION_S)
            except (DatabaseError, PoolTimeout):
                continue
            if held is None:
                self._lost = True
                me.cancel()
                return
            if held["cancel_requested"]:
                self.cancel()

    async def _end(self, state: JobState, reason: dict[str, Any] | None) -> None:
        async with self._parts.database.tenant(self._tenant) as connection:
            await store.row(connection, queries.end_rollout, self._fence | {"state": state.value, "reason": store.as_json(reason)})
        with suppress(DatabaseError, PoolTimeout):  # it would end by itself within the hour
            await end_delegations(self._parts.database, tenant=self._tenant, job_id=self.id)
        log.info("rollout over", action="rollout", rollout=self.id, state=state.value)

    async def _put_back(self, state: JobState, reason: dict[str, Any] | None, seconds: float) -> None:
        async with self._parts.database.tenant(self._tenant) as connection:
            values = self._fence | {"state": state.value, "reason": store.as_json(reason), "seconds": seconds}
            await store.row(connection, queries.put_back_rollout, values)


def adopt_trace(claimed: Row) -> None:
    """The work goes on in the trace of the request that asked for it."""
    headers = claimed["trace"]
    trace.adopt(trace.begin(headers.get("traceparent"), headers.get("X-Request-ID"), headers.get("tracestate")))
