"""The engines behind the service: which is there, which is least busy, and that each holds the weights it is asked for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import structlog

from cacherl.api.rollout import EngineStatus
from cacherl.engine import Completion, Engine, EngineInfo, GenerationRequest, PolicyVersion
from cacherl.errors import AwayError, ConflictError, EngineError
from services.rollout.engines import EngineConfig

INFO_S = 10.0
log = structlog.get_logger(__name__)
OpenEngine = Callable[[EngineConfig], Engine]


@dataclass(frozen=True, slots=True)
class Weights:
    """A policy version and where its weights lie."""

    policy: PolicyVersion
    path: str
    """Relative to the shared weights root."""
    sha256: str


@dataclass(slots=True)
class Worker:
    """One engine and how many rollouts of this process it plays."""

    url: str
    engine: Engine
    playing: int = 0


class Holding:
    """An engine that is kept holding one policy version: where it lost it (a restart), it is given the weights again, once a request."""

    def __init__(self, engine: Engine, weights: Weights) -> None:
        self._engine, self._weights = engine, weights
        self._reloading = asyncio.Lock()

    async def generate(self, policy: PolicyVersion, requests: Sequence[GenerationRequest]) -> AsyncIterator[Completion]:
        """As the engine's; an engine that does not hold the version has sampled nothing yet, so asking again is safe."""
        begun = False
        try:
            async with aclosing(_closable(self._engine.generate(policy, requests))) as completions:
                async for completion in completions:
                    begun = True
                    yield completion
            return
        except ConflictError:
            if begun:
                raise
        await self._reload()
        async with aclosing(_closable(self._engine.generate(policy, requests))) as completions:
            async for completion in completions:
                yield completion

    async def _reload(self) -> None:
        async with self._reloading:
            if self._weights.policy not in (await self._engine.info()).policies:
                log.warning("an engine lost its weights", action="load", policy=str(self._weights.policy))
                await self.load(self._weights.policy, self._weights.path, self._weights.sha256)

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        """As the engine's."""
        await self._engine.load(policy, path, sha256)

    async def forget(self, episodes: Sequence[str]) -> None:
        """As the engine's."""
        await self._engine.forget(episodes)

    async def info(self) -> EngineInfo:
        """As the engine's."""
        return await self._engine.info()

    async def close(self) -> None:
        """Nothing: the fleet closes its engines."""


async def _closable(stream: AsyncIterator[Completion]) -> AsyncGenerator[Completion]:
    """The same stream; closing it closes what is behind."""
    try:
        async for completion in stream:
            yield completion
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


class Fleet:
    """All configured engines."""

    def __init__(self, configs: Sequence[EngineConfig], open_engine: OpenEngine) -> None:
        self._workers = [Worker(config.url, open_engine(config)) for config in configs]

    async def close(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(worker.engine.close() for worker in self._workers), return_exceptions=True)

    async def status(self) -> EngineStatus:
        """What each engine is and holds; those that do not answer by address."""
        infos = await self._infos()
        return EngineStatus(
            engines=[info for info in infos if info is not None],
            away=[worker.url for worker, info in zip(self._workers, infos, strict=True) if info is None],
        )

    @asynccontextmanager
    async def least_busy(self, weights: Weights) -> AsyncIterator[Engine]:
        """An engine that holds the weights, counted as busy with them while the block runs. Errors: EngineError where none can."""
        worker = await self._holding(weights)
        worker.playing += 1
        try:
            yield Holding(worker.engine, weights)
        finally:
            worker.playing -= 1

    async def _holding(self, weights: Weights) -> Worker:
        infos = await self._infos()
        there = [(worker, info) for worker, info in zip(self._workers, infos, strict=True) if info is not None]
        there.sort(key=lambda pair: (pair[0].playing, weights.policy not in pair[1].policies))
        last: AwayError | None = None
        for worker, info in there:
            try:
                if weights.policy not in info.policies:
                    await worker.engine.load(weights.policy, weights.path, weights.sha256)
                return worker
            except AwayError as error:
                last = error
                log.warning("an engine cannot take the weights", action="load", engine=worker.url, policy=str(weights.policy))
        raise last or EngineError(f"none of the {len(self._workers)} engines answers")

    async def publish(self, weights: Weights) -> None:
        """Makes every engine hold the weights. Errors: EngineError where one is away, ConflictError where the bytes are other ones."""
        if not self._workers:
            raise EngineError("no engine is configured (CACHERL_ENGINES)", slug="no-engine")
        loads = (worker.engine.load(weights.policy, weights.path, weights.sha256) for worker in self._workers)
        for outcome in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _infos(self) -> list[EngineInfo | None]:
        return await asyncio.gather(*(_info(worker) for worker in self._workers))


async def _info(worker: Worker) -> EngineInfo | None:
    try:
        async with asyncio.timeout(INFO_S):
            return await worker.engine.info()
    except (AwayError, TimeoutError):
        return None
