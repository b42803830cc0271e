import json
from typing import Any

import orjson
import pytest

from cacherl.engine import PolicyVersion
from cacherl.episode import EpisodeStatus, StopReason, violations
from cacherl.episodes_file import EpisodeLines
from cacherl.errors import InputError, NotFoundError
from cacherl.jobs import JobState
from cacherl.testing import tool
from services.kit.auth import Scope
from tests.rollout.conftest import Start, World, over, publish, received, tasks, wanted


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
