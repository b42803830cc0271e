"""What the embedded engine promises beyond the seam."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import safetensors.torch
import stamina
import torch

from cacherl.engine import PolicyVersion
from cacherl.errors import ConflictError, EngineError
from services.engine.embedded import main
from services.rollout.engines.embedded import EmbeddedEngine
from tests.engine.conftest import Bench, Ids, Published, Weights, embedded_process
from tests.engine.test_seam import assert_is_of, collect, turn
from tests.engine.tiny import VOCABULARY, change_config, digest


async def hold(bench: Bench, published: Published) -> None:
    await bench.engine.load(published.policy, published.path, published.sha256)


async def metric(bench: Bench, name: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{bench.url}/metrics") as answer:
        return int((await answer.text()).split(f"\ncacherl_engine_{name} ")[1].split()[0])


async def post(bench: Bench, path: str, body: bytes) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as session, session.post(f"{bench.url}{path}", data=body) as answer:
        return answer.status, answer.content_type, json.loads(await answer.read())


async def test_a_seed_gives_the_same_turn_in_any_company(embedded: Bench, ids: Ids) -> None:
    request = turn("seeded", ids(20), temperature=1, max_tokens=40, seed=11)
    alone = (await collect(embedded, [request]))["seeded"]
    others = [turn(f"o{n}", ids(5 + n), temperature=1, max_tokens=50) for n in range(30)]
    for company in (others, others[:3]):
        assert (await collect(embedded, [*company, request]))["seeded"].ids == alone.ids
    other_seed = turn("seeded", request.ids, temperature=1, max_tokens=40, seed=12)
    assert (await collect(embedded, [other_seed]))["seeded"].ids != alone.ids


async def test_without_a_seed_draws_differ(embedded: Bench, ids: Ids) -> None:
    prefix = ids(20)
    completions = await collect(embedded, [turn(f"d{n}", prefix, temperature=1, max_tokens=30) for n in range(4)])
    assert len({tuple(item.ids) for item in completions.values()}) == 4


async def test_only_what_is_new_of_a_prefix_is_computed(embedded: Bench, ids: Ids) -> None:
    prefix = ids(100)
    request = turn("kept", prefix, temperature=1, max_tokens=8, min_tokens=8)
    before = await metric(embedded, "prefilled_tokens_total")
    first = (await collect(embedded, [request]))["kept"]
    assert await metric(embedded, "prefilled_tokens_total") - before == len(prefix) - 1
    longer = prefix + first.ids + ids(10)
    await collect(embedded, [turn("kept", longer, temperature=1, max_tokens=1)])
    # the last sampled id was never fed, so it is new too; the last id of all is fed by the step
    assert await metric(embedded, "prefilled_tokens_total") - before == len(prefix) - 1 + 10


async def test_a_group_computes_its_prompt_once(embedded: Bench, ids: Ids) -> None:
    prefix = ids(120)
    before = await metric(embedded, "prefilled_tokens_total")
    requests = [turn(f"g{n}", prefix, temperature=1, max_tokens=12) for n in range(8)]
    completions = await collect(embedded, requests)
    assert await metric(embedded, "prefilled_tokens_total") - before == len(prefix) - 1
    for request in requests:
        assert_is_of(embedded.weights.first, request, completions[request.id])


async def test_an_episode_whose_prefix_changed_is_computed_anew(embedded: Bench, ids: Ids) -> None:
    await collect(embedded, [turn("changed", ids(60), temperature=0, max_tokens=4)])
    other = turn("changed", ids(60), temperature=0, max_tokens=12)
    assert_is_of(embedded.weights.first, other, (await collect(embedded, [other]))["changed"])


async def test_several_policies_answer_side_by_side(embedded: Bench, ids: Ids) -> None:
    first, second = embedded.weights.first, embedded.weights.second
    third = embedded.weights.publish("wide", 0, seed=5, layers=3, hidden=64, tied=False)
    for published in (second, third):
        await hold(embedded, published)

    async def of(published: Published) -> None:
        requests = [turn(f"{published.policy}:{n}", ids(9), temperature=n % 2, max_tokens=20) for n in range(8)]
        completions = await collect(embedded, requests, published.policy)
        for request in requests:
            assert_is_of(published, request, completions[request.id])

    await asyncio.gather(of(first), of(second), of(third))


async def test_the_policy_unused_for_longest_makes_room(embedded: Bench, ids: Ids) -> None:
    second = embedded.weights.second
    for version in range(10, 16):
        await embedded.engine.load(PolicyVersion(name="many", version=version), second.path, second.sha256)
    held = (await embedded.engine.info()).policies
    assert len(held) == 6
    assert embedded.weights.first.policy not in held
    with pytest.raises(ConflictError):
        await collect(embedded, [turn("gone", ids(5))])


async def test_a_version_never_changes(embedded: Bench) -> None:
    first, second = embedded.weights.first, embedded.weights.second
    await embedded.engine.load(first.policy, first.path, first.sha256)
    with pytest.raises(ConflictError, match="never changes"):
        await embedded.engine.load(first.policy, second.path, second.sha256)


def _remove(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda directory: change_config(directory, model_type="llama"), "serves Qwen3ForCausalLM"),
        (lambda directory: change_config(directory, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "rotary type 'yarn'"),
        (lambda directory: change_config(directory, attention_bias=True), "attention bias"),
        (lambda directory: change_config(directory, hidden_size=64), "the configuration says"),
        (lambda directory: change_config(directory, num_hidden_layers=9), "has no model.layers.2"),
        (_remove, "model.safetensors is missing"),
        (_truncate, "cannot be read"),
    ],
    ids=["architecture", "rotary", "bias", "shape", "layers", "missing", "truncated"],
)
async def test_weights_that_cannot_be_served_are_refused_with_the_reason(
    embedded: Bench, tmp_path: Path, ids: Ids, break_it: Any, said: str
) -> None:
    directory = embedded.weights.root / "broken" / tmp_path.name
    shutil.copytree(embedded.weights.root / embedded.weights.first.path, directory)
    break_it(directory)
    sha256 = digest(directory) if (directory / "model.safetensors").exists() else "0" * 64
    with pytest.raises(EngineError, match=said):
        await embedded.engine.load(PolicyVersion(name="broken", version=0), str(directory.relative_to(embedded.weights.root)), sha256)
    await collect(embedded, [turn("alive", ids(5), max_tokens=2)])


async def test_a_diverged_policy_fails_its_own_requests_only(embedded: Bench, ids: Ids) -> None:
    directory = embedded.weights.root / "diverged" / "0"
    shutil.copytree(embedded.weights.root / embedded.weights.first.path, directory, dirs_exist_ok=True)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
    safetensors.torch.save_file(tensors, directory / "model.safetensors")
    policy = PolicyVersion(name="diverged", version=0)
    await embedded.engine.load(policy, "diverged/0", digest(directory))
    healthy = asyncio.create_task(collect(embedded, [turn("h", ids(9), temperature=0, max_tokens=60)]))
    with pytest.raises(EngineError) as caught:
        await collect(embedded, [turn(f"n{n}", ids(5), max_tokens=4) for n in range(3)], policy)
    assert caught.value.problem_slug == "policy-diverged"
    assert len(await healthy) == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "slug"),
    [
        ("/generate", b"{", 422, "invalid-input"),
        ("/generate", b'{"policy": {"name": "tiny", "version": 0}, "requests": []}', 422, "invalid-input"),
        ("/generate", b'{"policy": {"name": "tiny", "version": 0}, "requests": [{"id": 1}]}', 422, "invalid-input"),
        ("/policies", b'{"name": "tiny", "version": 0, "path": "x", "sha256": "short"}', 422, "invalid-input"),
        ("/policies", b'{"name": "../x", "version": 0, "path": "tiny/0", "sha256": "%s"}' % (b"0" * 64), 422, "invalid-input"),
        ("/policies", b'{"name": "tiny", "version": 3, "path": "none", "sha256": "%s"}' % (b"0" * 64), 404, "not-found"),
        ("/nowhere", b"{}", 404, "http-error"),
    ],
)
async def test_what_is_wrong_is_said_as_a_problem(embedded: Bench, path: str, body: bytes, status: int, slug: str) -> None:
    found, kind, problem = await post(embedded, path, body)
    assert (found, kind) == (status, "application/problem+json")
    assert problem["type"] == f"urn:cacherl:problem:{slug}"
    assert problem["status"] == status
    assert problem["detail"]


async def test_every_bad_request_of_a_batch_is_named(embedded: Bench) -> None:
    def request(name: str, ids: Sequence[int]) -> dict[str, Any]:
        return turn(name, ids).model_dump()

    body = {
        "policy": embedded.weights.first.policy.model_dump(),
        "requests": [request("a", []), request("b", [1]), request("b", [VOCABULARY])],
    }
    status, _, problem = await post(embedded, "/generate", json.dumps(body).encode())
    assert status == 422
    assert [error["pointer"] for error in problem["errors"]] == ["#/requests/0/ids", "#/requests/2/ids", "#/requests/2/id"]


async def test_a_batch_larger_than_the_rows_is_served(embedded: Bench, ids: Ids) -> None:
    requests = [turn(f"r{n}", ids(3 + n % 40), temperature=n % 2, max_tokens=1 + n % 17) for n in range(80)]
    completions = await collect(embedded, requests)
    for request in requests[::7]:
        assert_is_of(embedded.weights.first, request, completions[request.id])


async def test_an_engine_that_is_not_there_is_away(ids: Ids) -> None:
    engine = EmbeddedEngine("http://127.0.0.1:9")
    with stamina.set_testing(True, attempts=2), pytest.raises(EngineError, match=r"127\.0\.0\.1:9 does not answer /info"):
        await engine.info()
    await engine.close()


async def test_an_engine_that_dies_in_a_stream_is_away_not_finished(weights: Weights, ids: Ids) -> None:
    first = weights.first
    with embedded_process(weights.root) as url:
        engine = EmbeddedEngine(url)
        await engine.load(first.policy, first.path, first.sha256)
        stream = engine.generate(first.policy, [turn("s", ids(5), max_tokens=1), turn("l", ids(5), max_tokens=1000, min_tokens=1000)])
        assert (await anext(stream)).id == "s"
    with pytest.raises(EngineError):
        await anext(stream)
    await engine.close()


def test_the_command_line_refuses_a_root_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--port", "0", "--weights-root", "/nowhere"])
    assert caught.value.code == 2
    assert "not a directory" in capsys.readouterr().err
