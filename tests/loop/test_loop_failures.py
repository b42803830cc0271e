"""Failures are recorded on their own episode, never scored, and leave nothing behind."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.api.cache import LookupItem, LookupItemAnswer
from cacherl.api.rollout import Limits
from cacherl.engine import Completion, GenerationRequest, PolicyVersion
from cacherl.episode import EpisodeStatus, StopReason, violations
from cacherl.errors import CacheRLError, EngineError, InputError, ServiceError
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, Said, Script, ScriptedEngine, task
from cacherl.tier import CallOutcome
from cacherl.trajectory import Role
from tests.loop.playing import READ, cache, play, read


class FailingCache(InMemoryToolCache):
    """Refuses, hangs or is away for calls whose id says so."""

    async def lookup(self, items: Sequence[LookupItem]) -> list[LookupItemAnswer]:
        for item in items:
            match item.calls[0].arguments["id"]:
                case "away":
                    raise ServiceError("the cache is away")
                case "refused":
                    raise InputError("the cache refuses this item")
                case "hangs":
                    await asyncio.sleep(60)
        return await super().lookup(items)


def failing(renderer: Renderer, *keys: str) -> Script:
    def script(request: GenerationRequest, turn: int) -> Said:
        return (
            (read(keys[order[request.episode]]) if request.episode in order else read(keys[_join(order, request.episode)]))
            if turn == 0
            else "done"
        )

    order: dict[str, int] = {}
    return script


def _join(order: dict[str, int], episode: str) -> int:
    order[episode] = len(order)
    return order[episode]


async def test_a_refused_item_takes_no_sibling_with_it(renderer: Renderer):
    tools = FailingCache([READ])
    tools._entries = cache()._entries
    episodes, _, _ = await play(renderer, failing(renderer, "a", "refused", "b"), size=3, tools=tools)
    by = {episode.index: episode for episode in episodes}
    assert [by[i].status for i in range(3)] == [EpisodeStatus.OK, EpisodeStatus.FAILED, EpisodeStatus.OK]
    assert by[1].stop_reason is StopReason.INFRASTRUCTURE
    assert by[1].error is not None
    assert by[1].error["type"] == "urn:cacherl:problem:invalid-input"
    assert not by[1].scorable
    assert not violations(by[1])


async def test_a_cache_that_hangs_is_a_timeout_that_is_not_scored(renderer: Renderer):
    (episode,), _, _ = await play(renderer, [read("hangs")], tools=FailingCache([READ]), limits=Limits(call_seconds=0.02))
    assert (episode.stop_reason, episode.status) == (StopReason.TIMEOUT, EpisodeStatus.FAILED)
    assert len(episode.turns) == 1
    (episode,), _, _ = await play(renderer, [read("hangs")], tools=FailingCache([READ]), limits=Limits(episode_seconds=0.05))
    assert (episode.stop_reason, episode.status) == (StopReason.TIMEOUT, EpisodeStatus.FAILED)


async def test_an_engine_that_goes_away_keeps_what_was_sampled(renderer: Renderer):
    def script(request: GenerationRequest, turn: int) -> Said:
        if turn == 1:
            raise EngineError("gone")
        return read("a")

    (episode,), _, _ = await play(renderer, script)
    assert (episode.status, episode.stop_reason) == (EpisodeStatus.FAILED, StopReason.INFRASTRUCTURE)
    assert episode.ids[-1] == episode.ids[episode.turns[0].end - 1]
    assert [message.role for message in episode.messages] == [Role.USER, Role.ASSISTANT]
    assert episode.calls[0].outcome is CallOutcome.EXACT


async def test_a_policy_that_the_engine_does_not_hold_fails_every_episode(renderer: Renderer):
    engine = ScriptedEngine(renderer, ["x"], policies=[PolicyVersion(name="other", version=1)])
    loop = CacheAgentLoop(renderer, engine, cache(), LoopConfig(POLICY))
    episodes = [episode async for episode in loop.run([task()], 2)]
    assert [episode.stop_reason for episode in episodes] == [StopReason.INFRASTRUCTURE] * 2
    assert all(len(episode.ids) == episode.prompt_length for episode in episodes)


class BrokenEngine(ScriptedEngine):
    """Gives log-probs that cannot be."""

    broken: dict[str, Any]

    def _completion(self, policy: PolicyVersion, request: GenerationRequest, said: Said) -> Completion:
        return super()._completion(policy, request, said).model_copy(update=self.broken)


@pytest.mark.parametrize(
    "broken",
    [{"logprobs": [-1.0]}, {"logprobs": [float("-inf")] * 2}, {"logprobs": [0.5, -1.0]}, {"id": "somebody"}, {"ids": [], "logprobs": []}],
)
async def test_a_completion_that_cannot_be_true_is_never_an_episodes_turn(renderer: Renderer, broken: dict[str, Any]):
    engine = BrokenEngine(renderer, [[65, min(renderer.end_of_turn)]])
    engine.broken = broken
    loop = CacheAgentLoop(renderer, engine, cache(), LoopConfig(POLICY))
    (episode,) = [episode async for episode in loop.run([task()])]
    assert (episode.status, episode.turns) == (EpisodeStatus.FAILED, [])


async def test_cancelling_yields_what_runs_and_aborts_the_engine(renderer: Renderer):
    engine = ScriptedEngine(renderer, [read("a")], seconds=0.05)
    loop = CacheAgentLoop(renderer, engine, cache(), LoopConfig(POLICY, concurrency=4))
    asyncio.get_running_loop().call_later(0.02, loop.cancel)
    episodes = [episode async for episode in loop.run([task()], 8)]
    assert len(episodes) == 4
    assert {episode.stop_reason for episode in episodes} == {StopReason.CANCELLED}
    assert not any(episode.scorable for episode in episodes)
    await asyncio.sleep(0)
    assert engine.aborted == 1


async def test_leaving_the_run_early_leaves_nothing_behind(renderer: Renderer):
    engine = ScriptedEngine(renderer, lambda request, turn: "x", seconds=0.01)
    loop = CacheAgentLoop(renderer, engine, cache(), LoopConfig(POLICY))
    before = len(asyncio.all_tasks())
    stream = loop.run([task()], 8)
    async for _ in stream:
        break
    await stream.aclose()
    assert len(asyncio.all_tasks()) == before
    assert engine.aborted == 1


async def test_episodes_that_are_there_already_are_left_out(renderer: Renderer):
    loop = CacheAgentLoop(renderer, ScriptedEngine(renderer, ["x"]), cache(), LoopConfig(POLICY))
    episodes = [episode async for episode in loop.run([task(), task()], 2, skip={(0, 0), (0, 1), (1, 0)})]
    assert [(episode.group, episode.index) for episode in episodes] == [(1, 1)]


async def test_a_task_that_the_template_refuses_ends_the_run(renderer: Renderer):
    renderer_that_refuses = Renderer.__new__(Renderer)
    renderer_that_refuses.__dict__.update(renderer.__dict__)

    def refuse(*_: object) -> list[int]:
        raise CacheRLError("no")

    renderer_that_refuses.__dict__["prompt"] = refuse
    loop = CacheAgentLoop(renderer_that_refuses, ScriptedEngine(renderer, ["x"]), cache(), LoopConfig(POLICY))
    with pytest.raises(CacheRLError, match="no"):
        [episode async for episode in loop.run([task()])]
