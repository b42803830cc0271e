"""The reward API over real HTTP: contracts §5, credentials, bad input, reply integrity, idempotency, speed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import orjson
import pytest
from fastapi import FastAPI, Request, Response

from cacherl.api.reward import AdvantageAnswer, AdvantageRequest, Group, Presets, ScoreAnswer, ScoreRequest
from cacherl.client import RewardClient
from cacherl.episode import Episode, EpisodeStatus, StopReason
from cacherl.episodes_file import episode_line, task_lines
from cacherl.errors import ForbiddenError, InputError
from cacherl.reward import score
from cacherl.score import Estimator, JudgeVotes, RewardConfig, ScoreStatus
from cacherl.trajectory import Task
from services.kit.auth import Scope
from tests.reward.examples import call, episode, task, wanted

Start = Callable[..., Awaitable[httpx2.AsyncClient]]
OF = task(wanted("weather", "Oslo"), facts=["21", "Oslo"])
JSON = {"Content-Type": "application/json"}


def body(*episodes: Episode, tasks: tuple[Task, ...] = (OF,), **more: Any) -> dict[str, Any]:
    request = {"episodes": [each.model_dump(mode="json", by_alias=True) for each in episodes]}
    return request | {"tasks": [each.model_dump(mode="json") for each in tasks]} | more


def problem(response: httpx2.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["type"] == f"urn:cacherl:problem:{slug}"
    return found


async def test_scores_are_those_of_the_library_and_name_what_they_are_of(reward: Start):
    client = await reward()
    episodes = [
        episode(call(), of=OF, answer="It is 21 degrees in Oslo.", name="eps_a"),
        episode(call(outcome="miss"), of=OF, answer="It is 21 degrees.", name="eps_b"),
        episode(call(), of=OF, stop=StopReason.MAX_TURNS, name="eps_c"),
        episode(call(), of=OF, status=EpisodeStatus.FAILED, stop=StopReason.INFRASTRUCTURE, name="eps_d"),
    ]
    for config in (RewardConfig(), RewardConfig(preset="paper")):
        response = await client.post("/v1/scores", json=body(*episodes, preset=config.preset))
        assert response.status_code == 200, response.text
        answer = ScoreAnswer.model_validate_json(response.content)
        assert answer.config_hash == config.config_hash
        assert [each.episode_hash for each in answer.scores] == [each.hash for each in episodes]
        votes = [[5], [2], None, None]
        verdicts = [JudgeVotes(name="facts", votes=each) if each is not None else None for each in votes]
        assert answer.scores == [score(each, OF, said, config) for each, said in zip(episodes, verdicts, strict=True)]
    assert answer.scores[3].status is ScoreStatus.UNSCORABLE


async def test_the_facts_judge_abstains_without_facts(reward: Start):
    client = await reward()
    of = task(wanted("weather", "Oslo"))
    response = await client.post("/v1/scores", json=body(episode(call(), of=of), tasks=(of,)))
    found = response.json()["scores"][0]
    assert (found["status"], found["total"], found["r_answer"], found["judge"]["votes"]) == ("abstained", None, None, [])


async def test_the_sdk_scores_and_computes_advantages(reward: Start):
    client = await reward()
    key = client.headers["authorization"].removeprefix("Bearer ")
    episodes = [episode(call(), of=OF, answer="21 in Oslo", name="eps_a"), episode(of=OF, answer="No idea.", name="eps_b")]
    async with RewardClient(str(client.base_url), key) as sdk:
        answer = await sdk.score(ScoreRequest(episodes=episodes, tasks=[OF]))
        found = await sdk.advantages(AdvantageRequest(groups=[Group(task_id=OF.id, scores=answer.scores)], config_hash=answer.config_hash))
        presets = await sdk.presets()
    assert found.estimator is Estimator.ATTRIBUTED
    assert (found.groups[0].advantages[0] or 0) > 0 > (found.groups[0].advantages[1] or 0)
    assert presets.hashes["robust"] == RewardConfig().config_hash == answer.config_hash
    assert presets.judges == ["facts"]
    assert isinstance(presets, Presets)


# Credentials


ROUTES = [("POST", "/v1/scores"), ("POST", "/v1/advantages"), ("GET", "/v1/presets")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_operation_needs_the_scope(
    serve: Start, reward_app: Callable[..., FastAPI], api_key: Callable[..., str], method: str, path: str
):
    client = await serve(reward_app())
    problem(await client.request(method, path, json={}), 401, "unauthenticated")
    problem(await client.request(method, path, json={}, headers={"Authorization": "Bearer crl_nobody"}), 401, "unauthenticated")
    others = api_key([scope for scope in Scope if scope is not Scope.REWARD_SCORE])
    problem(await client.request(method, path, json={}, headers={"Authorization": f"Bearer {others}"}), 403, "forbidden")
    own = {"Authorization": f"Bearer {api_key([Scope.REWARD_SCORE])}"}
    assert (await client.request(method, path, json={}, headers=own)).status_code in (200, 422)


async def test_health_and_documentation_are_open(serve: Start, reward_app: Callable[..., FastAPI]):
    client = await serve(reward_app())
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {"/v1/scores", "/v1/advantages", "/v1/presets"}
    answer = document["paths"]["/v1/scores"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ScoreAnswer"}


# Bad input


async def test_an_episode_whose_hash_does_not_match_is_refused(reward: Start):
    client = await reward()
    good = episode(call(outcome="miss"), of=OF)
    changed = good.model_copy(update={"turns": [*good.turns[:-1], good.turns[-1].model_copy(update={"logprobs": [-9.0] * 5})]})
    unsealed = good.model_copy(update={"hash": ""})
    broken = good.model_copy(update={"turns": [good.turns[0].model_copy(update={"logprobs": [-0.1]}), *good.turns[1:]]})
    for bad in (changed, unsealed, broken):
        found = problem(await client.post("/v1/scores", json=body(good, bad)), 422, "hash-mismatch")
        assert found["errors"] == [{"pointer": "/episodes/1/hash", "detail": "the content does not have this hash"}]


async def test_an_episode_with_a_broken_invariant_is_unscorable(reward: Start):
    client = await reward()
    good = episode(call(), of=OF)
    broken = good.model_copy(update={"turns": [good.turns[0].model_copy(update={"logprobs": [-0.1]}), *good.turns[1:]]}).sealed()
    found = (await client.post("/v1/scores", json=body(broken))).json()["scores"][0]
    assert (found["status"], found["reasons"]) == ("unscorable", ["broken:one-logprob-per-sampled-id"])


async def test_an_episode_without_its_task_is_refused(reward: Start):
    client = await reward()
    response = await client.post("/v1/scores", json=body(episode(call(), of=OF), tasks=()))
    assert problem(response, 422, "task-missing")["errors"][0]["pointer"] == "/episodes/0/task"


@pytest.mark.parametrize(
    "more",
    [
        {"preset": "charming"},
        {"config": {"preset": "robust", "charm": 1}},
        {"preset": "robust", "config": {"preset": "robust"}},
        {"config": {"preset": "robust", "answer_weight": 1.5}},
        {"config": {"preset": "robust", "process_weights": {"charm": 1.0}}},
        {"config": {"preset": "robust", "process_weights": {"match": -1.0}}},
        {"config": {"preset": "paper", "alpha": {"exact": 1.0}}},
        {"episodes": []},
        {"tenant": "other"},
        {"config": {"judge": "http://169.254.169.254/latest"}},
    ],
)
async def test_bad_requests_are_refused(reward: Start, more: dict[str, Any]):
    client = await reward()
    response = await client.post("/v1/scores", json=body(episode(call(), of=OF)) | more)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_tool_whose_schema_is_none_is_named(reward: Start):
    client = await reward()
    bad = OF.tools[0].model_copy(update={"function": OF.tools[0].function.model_copy(update={"parameters": {"type": 5}})})
    of = OF.model_copy(update={"tools": [bad, *OF.tools[1:]]})
    problem(await client.post("/v1/scores", json=body(episode(call(), of=of), tasks=(of,))), 422, "tool-schema")


async def test_numbers_are_finite_everywhere(reward: Start):
    client = await reward()
    whole = orjson.dumps(body(episode(call(fidelity=0.25), of=OF))).decode()
    for old, new in (
        ('"fidelity":0.25', '"fidelity":NaN'),
        ('"city":"Oslo"', '"city":NaN'),
        ('"logprobs":[-0.25', '"logprobs":[-Infinity'),
    ):
        assert old in whole
        response = await client.post("/v1/scores", content=whole.replace(old, new, 1), headers=JSON)
        assert response.status_code == 422, response.text
    for bad in ("", "{", "[]", '"text"', "null"):
        assert (await client.post("/v1/scores", content=bad, headers=JSON)).status_code == 422


async def test_what_would_cost_too_much_is_refused(reward: Start):
    client = await reward(max_calls=2, max_episodes=2, max_facts=3)
    many = task(facts=["a", "b", "c", "d"])
    problem(await client.post("/v1/scores", json=body(episode(of=many), tasks=(many,))), 422, "invalid-input")
    problem(await client.post("/v1/scores", json=body(episode(call(), call(), call(), of=OF))), 422, "invalid-input")
    problem(await client.post("/v1/scores", json=body(*[episode(of=OF)] * 3)), 422, "invalid-input")


# Advantages


async def scores(client: httpx2.AsyncClient, preset: str = "robust") -> dict[str, Any]:
    episodes = [episode(call(), of=OF, answer="21 in Oslo", name="eps_a"), episode(of=OF, answer="No idea.", name="eps_b")]
    return (await client.post("/v1/scores", json=body(*episodes, preset=preset))).json()


async def test_advantages_by_every_estimator_with_diagnostics(reward: Start):
    client = await reward()
    scored = await scores(client)
    for estimator in Estimator:
        request = {"groups": [{"task_id": "t1", "scores": scored["scores"]}], "config_hash": scored["config_hash"], "estimator": estimator}
        response = await client.post("/v1/advantages", json=request)
        assert response.status_code == 200, response.text
        answer = AdvantageAnswer.model_validate_json(response.content)
        assert answer.estimator is estimator
        assert len(answer.groups[0].advantages) == 2
        assert answer.diagnostics["mean_blame"] == 1.0
        assert answer.diagnostics["groups"] == 1


async def test_scores_of_another_configuration_are_refused(reward: Start):
    client = await reward()
    robust, paper = await scores(client), await scores(client, "paper")
    groups = [{"task_id": "t1", "scores": [robust["scores"][0], paper["scores"][1]]}]
    attempts = [
        {"groups": groups, "config_hash": robust["config_hash"]},
        {"groups": [{"task_id": "t1", "scores": robust["scores"]}], "config_hash": paper["config_hash"]},
        {"groups": [{"task_id": "t1", "scores": robust["scores"]}], "config_hash": paper["config_hash"], "preset": "paper"},
    ]
    for attempt in attempts:
        problem(await client.post("/v1/advantages", json=attempt), 409, "mixed-configurations")


async def test_empty_groups_and_infinite_scores_are_refused(reward: Start):
    client = await reward()
    scored = await scores(client)
    config_hash = scored["config_hash"]
    for groups in ([], [{"task_id": "t1", "scores": []}]):
        assert (await client.post("/v1/advantages", json={"groups": groups, "config_hash": config_hash})).status_code == 422
    one = {"groups": [{"task_id": "t1", "scores": scored["scores"]}], "config_hash": config_hash, "estimator": "attributed"}
    text = orjson.dumps(one).decode().replace('"trust":1.0', '"trust":NaN', 1)
    assert (await client.post("/v1/advantages", content=text, headers=JSON)).status_code == 422
    assert (await client.post("/v1/advantages", json=one | {"estimator": "magic"})).status_code == 422
    assert (await client.post("/v1/advantages", json=one | {"preset": "magic"})).status_code == 422


# Idempotency


async def test_the_same_key_gives_the_first_answer_and_another_body_is_refused(reward: Start):
    client = await reward()
    key = {"Idempotency-Key": "step-1"}
    first = await client.post("/v1/scores", json=body(episode(call(), of=OF)), headers=key)
    again = await client.post("/v1/scores", json=body(episode(call(), of=OF)), headers=key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    other = await client.post("/v1/scores", json=body(episode(of=OF)), headers=key)
    problem(other, 422, "idempotency-key-reused")


# Episodes by id


class RolloutStandIn:
    """The rollout service's one route that scoring by id needs; the shapes are those of contracts §4."""

    def __init__(self, episodes: list[Episode], key: str) -> None:
        self.app = FastAPI()
        self.authorizations: list[str] = []

        @self.app.get("/v1/episodes")
        async def by_id(request: Request) -> Response:
            self.authorizations.append(request.headers["authorization"])
            if request.headers["authorization"] != f"Bearer {key}":
                return Response('{"detail": "no"}', status_code=403, media_type="application/problem+json")
            asked = request.query_params.getlist("id")
            lines = [*task_lines(OF, set()), *(episode_line(each) for each in episodes if each.id in asked)]
            return Response(b"".join(lines), media_type="application/x-ndjson")


async def test_episodes_by_id_are_read_with_the_callers_own_rights(
    serve: Start, reward_app: Callable[..., FastAPI], api_key: Callable[..., str]
):
    key, other = api_key([Scope.REWARD_SCORE]), api_key([Scope.REWARD_SCORE], tenant="other")
    kept = [episode(call(), of=OF, answer="21 in Oslo", name=f"eps_{i}") for i in range(3)]
    rollout = RolloutStandIn(kept, key)
    address = str((await serve(rollout.app)).base_url)
    client = await serve(reward_app(rollout_url=address), key)
    response = await client.post("/v1/scores", json={"episode_ids": ["eps_2", "eps_0"]})
    assert response.status_code == 200, response.text
    assert [each["episode_id"] for each in response.json()["scores"]] == ["eps_2", "eps_0"]
    assert rollout.authorizations == [f"Bearer {key}"]
    mixed = await client.post("/v1/scores", json=body(episode(call(), of=OF, name="eps_x")) | {"episode_ids": ["eps_1"]})
    assert [each["episode_id"] for each in mixed.json()["scores"]] == ["eps_x", "eps_1"]
    problem(await client.post("/v1/scores", json={"episode_ids": ["eps_9"]}), 404, "not-found")
    problem(await client.post("/v1/scores", json={"episode_ids": ["eps\n1"]}), 422, "invalid-input")
    stranger = {"Authorization": f"Bearer {other}"}
    assert (await client.post("/v1/scores", json={"episode_ids": ["eps_0"]}, headers=stranger)).status_code == 403


async def test_a_rollout_service_that_is_away_is_503(reward: Start):
    client = await reward(rollout_url="http://127.0.0.1:9")
    response = await client.post("/v1/scores", json={"episode_ids": ["eps_1"]})
    problem(response, 503, "service-away")
    assert response.headers["retry-after"]


# Speed


async def test_a_batch_of_128_episodes_takes_less_than_150_ms(reward: Start):
    """128 episodes of about 300 tokens, body and answer over HTTP. CPU time of this process, which runs both sides."""
    client = await reward()
    of = task(wanted("weather", "Oslo"), wanted("population", "Oslo"), wanted("weather", "Bergen"), facts=["21"])
    calls = (call(), call("population"), call(city="Bergen"))
    content = orjson.dumps(body(*(episode(*calls, of=of, name=f"eps_{i}", filler=70) for i in range(128)), tasks=(of,)))
    spent = []
    for _ in range(5):
        start = time.process_time()
        response = await client.post("/v1/scores", content=content, headers=JSON)
        spent.append(time.process_time() - start)
        assert response.status_code == 200
        await asyncio.sleep(0)
    assert min(spent) < 0.15, spent
    assert len(response.json()["scores"]) == 128


async def test_typed_errors_of_the_sdk(reward: Start, api_key: Callable[..., str]):
    client = await reward()
    async with RewardClient(str(client.base_url), api_key([Scope.CACHE_READ])) as sdk:
        with pytest.raises(ForbiddenError):
            await sdk.presets()
    async with RewardClient(str(client.base_url), api_key([Scope.REWARD_SCORE])) as sdk:
        with pytest.raises(InputError) as caught:
            await sdk.score(ScoreRequest(episodes=[episode(of=OF).model_copy(update={"hash": "0"})], tasks=[OF]))
        assert caught.value.problem_slug == "hash-mismatch"
