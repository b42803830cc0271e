"""The whole: tasks × group size, many episodes at once, each yielded as it finishes.

Failures of one episode stay with it. `cancel` ends what runs and yields it as `cancelled`; closing the iterator ends everything silently.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import aclosing

from cacherl.agent_loop.batching import EngineBatcher, LookupBatcher
from cacherl.agent_loop.config import LoopConfig
from cacherl.agent_loop.episode_run import EpisodeRun, PreparedTask, Surroundings
from cacherl.engine import Engine
from cacherl.episode import Episode, EpisodeCache, task_hash
from cacherl.rendering import Renderer
from cacherl.tool_cache import ToolCache
from cacherl.trajectory import Task

Finished = asyncio.Queue["Episode | BaseException | None"]
"""None marks the end."""


class CacheAgentLoop:
    """Plays a run. Give it the renderer of the policy, an engine that holds the policy, and a pinned cache."""

    def __init__(self, renderer: Renderer, engine: Engine, cache: ToolCache, config: LoopConfig) -> None:
        self.renderer, self.engine, self.cache, self.config = renderer, engine, cache, config
        self._cancelled = asyncio.Event()
        self._playing: set[asyncio.Task[Episode]] = set()

    def cancel(self) -> None:
        """Ends the run: episodes in flight are yielded as `cancelled`, those that have not begun are not."""
        self._cancelled.set()
        for task in list(self._playing):
            task.cancel()

    async def run_group(self, task: Task, *, group: int = 0, size: int = 1) -> AsyncGenerator[Episode]:
        """The episodes of one task."""
        async with aclosing(self.run([task], size, first_group=group)) as episodes:
            async for episode in episodes:
                yield episode

    async def run(
        self, tasks: Sequence[Task], group_size: int = 1, *, skip: Collection[tuple[int, int]] = (), first_group: int = 0
    ) -> AsyncGenerator[Episode]:
        """All episodes but those whose (group, index) is in `skip`, in the order in which they finish.

        Errors: `DataError` for a task that the template refuses; `AwayError` when the engine does not say what it is. Everything later
        is recorded on its episode.
        """
        around = await self._surroundings()
        work = self._work(tasks, group_size, frozenset(skip), first_group)
        finished: Finished = asyncio.Queue(maxsize=2 * self.config.concurrency)
        count = min(self.config.concurrency, len(tasks) * group_size)
        workers = [asyncio.create_task(self._worker(around, work, finished)) for _ in range(count)]
        everybody = asyncio.create_task(_ended(workers, finished))
        try:
            while (item := await finished.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            for task in (*self._playing, *workers, everybody):
                task.cancel()
            await asyncio.gather(*workers, everybody, return_exceptions=True)
            await around.lookups.close()
            await around.engine.close()

    async def _surroundings(self) -> Surroundings:
        info = await self.engine.info()
        return Surroundings(
            config=self.config,
            renderer=self.renderer,
            engine=EngineBatcher(self.engine, self.config.policy, window_s=self.config.gather_s),
            lookups=LookupBatcher(self.cache, window_s=self.config.gather_s, alone=self.config.mode != "replay"),
            context_length=info.context_length,
            cache=EpisodeCache(**self.cache.pins.model_dump()),
        )

    def _work(self, tasks: Sequence[Task], size: int, skip: frozenset[tuple[int, int]], first: int) -> Iterator[tuple[PreparedTask, int]]:
        """Every episode to play; a task is rendered when its first episode begins."""
        for group, task in enumerate(tasks, first):
            wanted = [index for index in range(size) if (group, index) not in skip]
            if wanted:
                prepared = PreparedTask(task, group, task_hash(task), self.renderer.prompt(task.messages, task.tools))
                yield from ((prepared, index) for index in wanted)

    async def _worker(self, around: Surroundings, work: Iterator[tuple[PreparedTask, int]], finished: Finished) -> None:
        try:
            for prepared, index in work:
                if self._cancelled.is_set():
                    return
                playing = asyncio.create_task(EpisodeRun(around, prepared, index).play(self._cancelled))
                self._playing.add(playing)
                try:
                    await finished.put(await playing)
                finally:
                    self._playing.discard(playing)
        except Exception as error:
            await finished.put(error)


async def _ended(workers: list[asyncio.Task[None]], finished: Finished) -> None:
    """Marks the end once every worker has ended."""
    await asyncio.gather(*workers, return_exceptions=True)
    await finished.put(None)
