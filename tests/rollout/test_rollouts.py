import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import orjson
import pytest

from cacherl.api.rollout import Policy
from cacherl.engine import GenerationRequest, PolicyVersion
from cacherl.episode import Episode, EpisodeStatus, StopReason, violations
from cacherl.episodes_file import EpisodeLines
from cacherl.errors import ConflictError, EngineError, InputError, NotFoundError, ServiceError
from cacherl.jobs import JobState
from cacherl.rendering import Renderer
from cacherl.testing import InMemoryToolCache, Said, ScriptedEngine, call_text, tool
from services.kit.auth import Scope
from services.rollout.settings import RolloutSettings
from tests.rollout.conftest import ANSWER, READ, TINY, Caches, Start, World, publish, tasks, wanted

CALL = call_text("read", {"id": "a"})


async def over(world: World, rollout: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            found = await world.sdk.get(rollout)
            if found.state.final:
                return found
            await asyncio.sleep(0.02)


async def received(world: World, rollout: str, after: str | None = None) -> list[Episode]:
    async with asyncio.timeout(20):
        return [episode async for episode in world.sdk.episodes(rollout, after=after)]


async def test_a_rollout_is_played_and_its_episodes_come_as_they_finish(world: World):
    accepted = await world.sdk.create(wanted(3))
    assert (accepted.state, accepted.url) == (JobState.QUEUED, f"/v1/rollouts/{accepted.id}")
    episodes = await received(world, accepted.id)
    assert sorted((episode.group, episode.index, episode.task_id) for episode in episodes) == [
        (group, index, f"t{group}") for group in range(3) for index in range(2)
    ]
    for episode in episodes:
        assert violations(episode) == []
        assert (episode.status, episode.stop_reason, episode.answer) == (EpisodeStatus.OK, StopReason.FINAL_ANSWER, "It is alpha.")
        assert episode.rollout == accepted.id
        assert episode.hash == episode.content_hash()
        assert episode.cache is not None
        assert (episode.cache.name, episode.cache.revision) == ("memory", 1)
    rollout = await over(world, accepted.id)
    assert rollout.state is JobState.SUCCEEDED
    assert (rollout.progress.done, rollout.progress.total, rollout.calls) == (6, 6, {"exact": 6})
    assert rollout.tokens_sampled == sum(turn.end - turn.start for episode in episodes for turn in episode.turns)
    assert set(world.engine.forgotten) == {episode.id for episode in episodes}


async def test_lookups_are_made_with_a_delegation_of_the_callers_tenant(world: World):
    await over(world, (await world.sdk.create(wanted())).id)
    (token,) = world.caches.tokens
    assert token.startswith("crd_")
    answer = await world.client.get("/v1/rollouts", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (401, 403)


async def test_a_stream_goes_on_after_an_episode_and_has_headers_where_they_are_asked_for(world: World):
    accepted = await world.sdk.create(wanted(4, group_size=3))
    episodes = await received(world, accepted.id)
    rest = await received(world, accepted.id, after=episodes[4].id)
    assert rest == episodes[5:]
    answer = await world.client.get(f"/v1/rollouts/{accepted.id}/episodes", params={"headers": "true", "after": episodes[4].id})
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = EpisodeLines()
    again = [episode for line in answer.content.splitlines() if (episode := lines.read(line)) is not None]
    assert again == rest
    assert {lines.tasks[episode.task].id for episode in again} == {episode.task_id for episode in rest}
    with pytest.raises(NotFoundError):
        await received(world, accepted.id, after="eps_nothing")


async def test_the_order_of_a_schemas_keys_survives(world: World):
    odd = tool("read", "zebra", "apple", mutating=False)
    accepted = await world.sdk.create(wanted(tasks=[tasks()[0].model_copy(update={"tools": [odd]})], group_size=1))
    (episode,) = await received(world, accepted.id)
    renderer = world.app.state.parts.renderers.at("tiny/0")
    assert episode.ids[: episode.prompt_length] == renderer.prompt(tasks()[0].messages, [odd])


async def test_episodes_are_found_by_entry_and_by_id(world: World):
    episodes = await received(world, (await world.sdk.create(wanted(2))).id)
    entry = episodes[0].calls[0].entry
    assert entry is not None
    by_entry = (await world.client.get("/v1/episodes", params={"entry": entry.id})).content
    lines = EpisodeLines()
    assert [episode for line in by_entry.splitlines() if (episode := lines.read(line))] == episodes
    assert len(lines.tasks) == 2
    wanted_ids = [episodes[2].id, episodes[0].id]
    by_id = (await world.client.get("/v1/episodes", params={"id": wanted_ids})).content
    lines = EpisodeLines()
    assert {episode.id for line in by_id.splitlines() if (episode := lines.read(line))} == set(wanted_ids)
    assert (await world.client.get("/v1/episodes", params={"entry": "ent_other"})).content == b""
    assert (await world.client.get("/v1/episodes")).json()["type"] == "urn:cacherl:problem:one-filter"


async def test_the_same_key_acts_once(world: World):
    first = await world.sdk.create(wanted(), key="k")
    assert (await world.sdk.create(wanted(), key="k")).id == first.id
    with pytest.raises(InputError):
        await world.sdk.create(wanted(2), key="k")
    assert len((await world.sdk.list()).items) == 1


async def test_nulls_are_resolved_when_the_rollout_is_accepted(world: World):
    pinned = world.caches.cache.pins
    accepted = await world.sdk.create(wanted())
    world.caches.cache.pins = pinned.model_copy(update={"revision": 9})
    rollout = await over(world, accepted.id)
    assert (rollout.cache, rollout.revision, rollout.view, rollout.as_of) == ("memory", 1, pinned.view, pinned.as_of)


async def test_a_policy_that_was_not_published_is_refused(world: World):
    with pytest.raises(NotFoundError, match="not published"):
        await world.sdk.create(wanted(policy=PolicyVersion(name="tiny", version=7)))


@pytest.mark.parametrize("fields", [{"group_size": 0}, {"tasks": []}, {"limits": {"max_turns": 0}}, {"x": 1}])
async def test_a_request_that_does_not_fit_is_a_problem(world: World, fields: dict[str, Any]):
    body = json.loads(wanted().model_dump_json()) | fields
    answer = await world.client.post("/v1/rollouts", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:cacherl:problem:invalid-input"
    assert answer.json()["errors"]


async def test_a_rollout_may_not_be_larger_than_the_limit(start: Start):
    world = await start(max_episodes=3)
    await publish(world)
    with pytest.raises(InputError, match="at most 3"):
        await world.sdk.create(wanted(2))


@pytest.mark.parametrize(
    ("scopes", "mode", "status"),
    [
        ([Scope.ROLLOUT_RUN], "replay", 403),
        ([Scope.CACHE_READ], "replay", 403),
        ([Scope.ROLLOUT_RUN, Scope.CACHE_READ], "replay", 202),
        ([Scope.ROLLOUT_RUN, Scope.CACHE_READ], "record", 403),
        ([Scope.ROLLOUT_RUN, Scope.CACHE_READ, Scope.CACHE_WRITE], "record", 202),
    ],
)
async def test_playing_needs_what_it_does_to_the_cache(world: World, api_key: Any, scopes: list[Scope], mode: str, status: int):
    headers = {"Authorization": f"Bearer {api_key(scopes)}"}
    content = wanted(mode=mode).model_dump_json()
    answer = await world.client.post("/v1/rollouts", content=content, headers=headers | {"Content-Type": "application/json"})
    assert answer.status_code == status


async def test_no_tenant_sees_anothers_rollouts(world: World, api_key: Any):
    accepted = await world.sdk.create(wanted())
    (episode, *_) = await received(world, accepted.id)
    other = {"Authorization": f"Bearer {api_key(tenant='other')}"}
    for path in (f"/v1/rollouts/{accepted.id}", f"/v1/rollouts/{accepted.id}/episodes", "/v1/policies/tiny/0"):
        assert (await world.client.get(path, headers=other)).status_code == 404
    assert (await world.client.post(f"/v1/rollouts/{accepted.id}/cancel", headers=other)).status_code == 404
    assert (await world.client.get("/v1/rollouts", headers=other)).json()["items"] == []
    assert (await world.client.get("/v1/episodes", params={"id": episode.id}, headers=other)).content == b""
    entry = episode.calls[0].entry
    assert entry is not None
    assert (await world.client.get("/v1/episodes", params={"entry": entry.id}, headers=other)).content == b""


async def test_rollouts_are_listed_page_by_page(world: World):
    ids = [(await world.sdk.create(wanted())).id for _ in range(5)]
    first = await world.sdk.list(limit=3)
    second = await world.sdk.list(limit=3, cursor=first.next_cursor)
    assert [rollout.id for rollout in first.items + second.items] == ids[::-1]
    assert second.next_cursor is None


async def test_a_recording_run_names_its_session(world: World):
    await over(world, (accepted := await world.sdk.create(wanted(mode="record", group_size=1))).id)
    assert [item.session for item in world.caches.cache.items] == [f"{accepted.id}.0.0"]


# -- failures ---------------------------------------------------------------------------------------------------------------------------


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
    other = await start(engine=ScriptedEngine(renderer, [CALL, ANSWER], policies=[]))
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
    other = await start(engine=ScriptedEngine(renderer, [CALL, ANSWER], policies=[]))
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
    engine = AwayEngine(renderer, [CALL, ANSWER], policies=[TINY])
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
        return CALL if turn == 0 else ANSWER

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


# -- policies ---------------------------------------------------------------------------------------------------------------------------


async def test_a_policy_is_published_to_the_engines(world: World):
    assert (await world.engine.info()).policies == [TINY]
    assert [(policy.name, policy.version, policy.state) for policy in await _policies(world.client)] == [("tiny", 0, JobState.SUCCEEDED)]
    await publish(world)


async def _policies(client: httpx2.AsyncClient) -> list[Any]:
    return [Policy.model_validate(item) for item in (await client.get("/v1/policies")).json()["items"]]


async def test_the_same_version_with_other_bytes_is_refused(world: World):
    answer = await world.client.post("/v1/policies", json={"name": "tiny", "version": 0, "path": "tiny/0", "sha256": "1" * 64})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cacherl:problem:policy-version-taken")


@pytest.mark.parametrize("path", ["../../etc", "/etc", ".", "tiny/../.."])
async def test_a_policy_lies_below_the_weights_root(world: World, path: str):
    answer = await world.client.post("/v1/policies", json={"name": "evil", "version": 0, "path": path, "sha256": "1" * 64})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:cacherl:problem:path-outside-root")


class RefusingEngine(ScriptedEngine):
    """Takes no weights."""

    error: Callable[[], Exception]

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        raise type(self).error()


@pytest.mark.parametrize("error", [lambda: ConflictError("other bytes"), lambda: EngineError("away")])
async def test_weights_that_no_engine_takes_are_not_published(
    start: Start, renderer: Renderer, error: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.rollout.runner.PUBLISH_ATTEMPTS", 2)
    monkeypatch.setattr("services.rollout.runner.PUBLISH_RETRY_S", 0.01)
    RefusingEngine.error = staticmethod(error)
    world = await start(engine=RefusingEngine(renderer, ["x"], policies=[]))
    with pytest.raises(EngineError, match="refused"):
        await publish(world)
    with pytest.raises(ConflictError):
        await world.sdk.create(wanted())


def test_engines_are_named_by_address_or_in_full(settings: Any, monkeypatch: pytest.MonkeyPatch):
    named = [{"kind": "sglang", "url": "http://gpu:30000", "weights_root": "/w"}, "http://127.0.0.1:9"]
    monkeypatch.setenv("CACHERL_ENGINES", json.dumps(named))
    found = RolloutSettings(**settings.model_dump()).engines
    assert [(engine.kind.value, engine.url) for engine in found] == [("sglang", "http://gpu:30000"), ("embedded", "http://127.0.0.1:9")]


async def test_the_documentation_names_every_operation(world: World):
    document = (await world.client.get("/openapi.json")).json()
    assert {path for path in document["paths"] if path.startswith("/v1")} == {
        "/v1/rollouts",
        "/v1/rollouts/{rollout}",
        "/v1/rollouts/{rollout}/cancel",
        "/v1/rollouts/{rollout}/episodes",
        "/v1/episodes",
        "/v1/policies",
        "/v1/policies/{name}/{version}",
        "/v1/engine",
    }
    assert orjson.dumps(document)
