"""Crashes, lost leases, cancellation, and parts that are away."""

import asyncio
import json
from typing import Any

from cacherl.engine import GenerationRequest
from cacherl.episode import Episode, EpisodeStatus, StopReason
from cacherl.errors import EngineError, ServiceError
from cacherl.jobs import JobState
from cacherl.rendering import Renderer
from cacherl.testing import InMemoryToolCache, Said, ScriptedEngine
from tests.rollout.conftest import ANSWER, READ, SCRIPT, TINY, Caches, Start, World, over, publish, received, wanted


def slow(seconds: float) -> dict[str, Any]:
    return {"scripted": {"seconds": seconds}}


async def test_cancelling_keeps_what_is_finished(start: Start):
    world = await start(**slow(0.05))
    await publish(world)
    accepted = await world.sdk.create(wanted(8, group_size=4))
    async for _ in world.sdk.episodes(accepted.id):
        break
    await world.sdk.cancel(accepted.id)
    rollout = await over(world, accepted.id)
    assert rollout.state is JobState.CANCELLED
    episodes = await received(world, accepted.id)
    assert {episode.stop_reason for episode in episodes} <= {StopReason.FINAL_ANSWER, StopReason.CANCELLED}
    assert any(episode.scorable for episode in episodes)
    assert (await world.sdk.cancel(accepted.id)).state is JobState.CANCELLED


async def test_a_queued_rollout_is_cancelled_at_once(start: Start):
    world = await start(concurrent_rollouts=1, **slow(0.2))
    await publish(world)
    await world.sdk.create(wanted())
    queued = await world.sdk.create(wanted())
    await asyncio.sleep(0.15)
    assert (await world.sdk.cancel(queued.id)).state is JobState.CANCELLED
    assert await received(world, queued.id) == []


async def test_another_process_hears_of_a_cancellation(start: Start):
    world = await start(**slow(0.1))
    await publish(world)
    idle = await start(engine=world.engine, concurrent_rollouts=1)
    accepted = await world.sdk.create(wanted(16, group_size=8))
    await idle.sdk.cancel(accepted.id)
    assert (await over(world, accepted.id)).state is JobState.CANCELLED


async def test_a_killed_process_loses_no_finished_episode_and_plays_none_twice(start: Start, rollout_settings: Any, renderer: Renderer):
    world = await start(**slow(0.03))
    await publish(world)
    accepted = await world.sdk.create(wanted(6, group_size=4))
    seen: list[Episode] = []
    async for episode in world.sdk.episodes(accepted.id):
        seen.append(episode)
        if len(seen) >= 3:
            break
    _kill(world)
    other = await start(engine=ScriptedEngine(renderer, SCRIPT, policies=[]))
    rollout = await over(other, accepted.id)
    assert rollout.state is JobState.SUCCEEDED
    episodes = await received(other, accepted.id)
    assert sorted((episode.group, episode.index) for episode in episodes) == [(g, i) for g in range(6) for i in range(4)]
    assert [episode.id for episode in episodes[: len(seen)]] == [episode.id for episode in seen]
    assert rollout.calls == {"exact": 24}
    assert rollout.progress.done == 24


def _kill(world: World) -> None:
    """The process's work ends without a word: nothing is put back, no lease is given up."""
    runner = world.app.state.runner
    for play in runner._playing.values():
        play._put_back = _silent
    for task in list(runner._tasks):
        task.cancel()
    runner._claim = _nothing


async def _silent(*_: object) -> None: ...


async def _nothing() -> bool:
    return False


async def test_a_process_that_stops_hands_its_rollouts_on(start: Start, serve: Any, renderer: Renderer):
    world = await start(**slow(0.05))
    await publish(world)
    accepted = await world.sdk.create(wanted(4, group_size=4))
    async for _ in world.sdk.episodes(accepted.id):
        break
    running = list(world.app.state.runner._tasks)
    world.app.state.runner._claim = _nothing
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert (await world.sdk.get(accepted.id)).state is JobState.QUEUED
    other = await start(engine=ScriptedEngine(renderer, SCRIPT, policies=[]))
    assert (await over(other, accepted.id)).state is JobState.SUCCEEDED


async def test_who_lost_the_lease_writes_nothing(start: Start, renderer: Renderer):
    world = await start(**slow(0.04))
    await publish(world)
    accepted = await world.sdk.create(wanted(8, group_size=4))
    async for _ in world.sdk.episodes(accepted.id):
        break
    async with world.app.state.parts.database.tenant("acme") as connection:
        await connection.execute("update rollout.rollouts set fence = fence + 1, lease_until = now() + interval '1 hour'")
    await asyncio.wait_for(asyncio.gather(*world.app.state.runner._tasks), 10)
    assert (await world.sdk.get(accepted.id)).state is JobState.RUNNING
    async with world.app.state.parts.database.tenant("acme") as connection:
        counts = await (
            await connection.execute("select count(*) as written, (select done from rollout.rollouts) as done from rollout.episodes")
        ).fetchone()
    assert counts["written"] == counts["done"] < 32


async def test_a_rollout_whose_owners_die_too_often_fails(start: Start):
    world = await start(max_crashes=1, concurrent_rollouts=1, **slow(5))
    await publish(world)
    accepted = await world.sdk.create(wanted())
    await asyncio.sleep(0.1)
    _kill(world)
    async with world.app.state.parts.database.tenant("acme") as connection:
        await connection.execute("update rollout.rollouts set lease_until = now() - interval '1 second', crashes = 1")
    other = await start(max_crashes=1)
    rollout = await over(other, accepted.id)
    assert rollout.state is JobState.FAILED
    assert rollout.reason is not None
    assert rollout.reason.slug == "too-many-crashes"


class AwayEngine(ScriptedEngine):
    """Does not answer at first."""

    away = True

    async def info(self) -> Any:
        if self.away:
            raise EngineError("the engine is away")
        return await super().info()


async def test_a_rollout_waits_for_an_engine_that_is_away(start: Start, renderer: Renderer):
    engine = AwayEngine(renderer, SCRIPT, policies=[TINY])
    world = await start(engine=engine)
    await publish(world)
    accepted = await world.sdk.create(wanted())
    await asyncio.sleep(0.3)
    assert (await world.sdk.get(accepted.id)).state in (JobState.WAITING, JobState.RUNNING)
    status = await world.sdk.engine()
    assert (status.engines, status.away) == ([], ["http://127.0.0.1:1"])
    engine.away = False
    assert (await over(world, accepted.id)).state is JobState.SUCCEEDED
    assert [info.kind for info in (await world.sdk.engine()).engines] == ["scripted"]


async def test_an_engine_that_lost_its_weights_is_given_them_again(world: World):
    await over(world, (await world.sdk.create(wanted())).id)
    info = await world.engine.info()
    held = iter([info, info.model_copy(update={"policies": []})])

    async def forgetful() -> Any:
        # It restarts between being asked what it holds and being asked to generate.
        found = next(held, None)
        world.engine._policies.clear()
        return found or info.model_copy(update={"policies": list(world.engine._policies)})

    world.engine.info = forgetful
    accepted = await world.sdk.create(wanted())
    episodes = await received(world, accepted.id)
    assert [episode.stop_reason for episode in episodes] == [StopReason.FINAL_ANSWER] * 2
    assert world.engine._policies == [TINY]


async def test_infrastructure_failures_are_recorded_and_the_siblings_count(start: Start):
    def script(request: GenerationRequest, turn: int) -> Said:
        if len(request.episode) and turn == 1 and request.episode == min(known):
            raise EngineError("the engine lost this turn")
        known.add(request.episode)
        return SCRIPT[0] if turn == 0 else ANSWER

    known: set[str] = set()
    world = await start(script, concurrent_episodes=1)
    await publish(world)
    accepted = await world.sdk.create(wanted(2))
    episodes = await received(world, accepted.id)
    failed = [episode for episode in episodes if episode.status is EpisodeStatus.FAILED]
    assert len(failed) == 1
    assert failed[0].error is not None
    assert failed[0].error["type"] == "urn:cacherl:problem:engine-away"
    assert failed[0].stop_reason is StopReason.INFRASTRUCTURE
    assert (await over(world, accepted.id)).state is JobState.SUCCEEDED


async def test_a_rollout_of_which_nothing_could_be_played_fails_with_the_reason(start: Start):
    def script(request: GenerationRequest, turn: int) -> Said:
        raise EngineError("the engine refuses everything")

    world = await start(script)
    await publish(world)
    accepted = await world.sdk.create(wanted())
    rollout = await over(world, accepted.id)
    assert rollout.state is JobState.FAILED
    assert rollout.reason is not None
    assert rollout.reason.detail == "the engine refuses everything"


async def test_a_cache_that_is_away_is_a_problem_at_once(start: Start):
    caches = Caches(InMemoryToolCache([READ]), refuses=ServiceError("the cache service is away"))
    world = await start(caches=caches)
    await publish(world)
    answer = await world.client.post("/v1/rollouts", json=json.loads(wanted().model_dump_json()))
    assert answer.status_code == 503
