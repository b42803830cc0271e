"""One contract for every engine: `cacherl.engine.Engine`, through the real clients, against transformers as the truth."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import aiohttp
import pytest

from cacherl.engine import Completion, FinishReason, GenerationRequest, PolicyVersion, Sampling
from cacherl.errors import ConflictError, EngineError
from services.rollout.engines import EngineKind
from tests.engine.conftest import CONTEXT, Bench, Ids, Published
from tests.engine.tiny import END_IDS, VOCABULARY

LOGPROB_TOLERANCE = 1e-5


def turn(name: str, ids: Sequence[int], **sampling: float) -> GenerationRequest:
    return GenerationRequest(id=name, episode=name, ids=list(ids), sampling=Sampling.model_validate(sampling))


async def collect(bench: Bench, requests: Sequence[GenerationRequest], policy: PolicyVersion | None = None) -> dict[str, Completion]:
    completions = [item async for item in bench.engine.generate(policy or bench.weights.first.policy, requests)]
    assert sorted(item.id for item in completions) == sorted(request.id for request in requests)
    return {item.id: item for item in completions}


def assert_is_of(published: Published, request: GenerationRequest, completion: Completion) -> None:
    """The log-probs are those of transformers, and a greedy completion is the one that `generate` gives."""
    assert completion.policy == published.policy
    assert completion.versions == []
    assert len(completion.logprobs) == len(completion.ids) > 0
    truth = published.reference.logprobs(request.ids, completion.ids, request.sampling.temperature)
    assert completion.logprobs == pytest.approx(truth, abs=LOGPROB_TOLERANCE)
    ended = completion.ids[-1] in END_IDS
    assert not set(completion.ids[:-1]) & set(END_IDS) or request.sampling.min_tokens
    assert completion.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
    assert ended or len(completion.ids) == request.sampling.max_tokens
    if request.sampling.temperature == 0:
        assert completion.ids == published.reference.greedy(request.ids, request.sampling.max_tokens)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
async def test_completions_are_those_of_the_policy(bench: Bench, ids: Ids, temperature: float) -> None:
    requests = [turn(f"e{n}", ids(3 + 7 * n), temperature=temperature, max_tokens=24) for n in range(6)]
    completions = await collect(bench, requests)
    for request in requests:
        assert_is_of(bench.weights.first, request, completions[request.id])


async def test_turns_of_many_episodes_extend_one_another(bench: Bench, ids: Ids) -> None:
    """Prefixes are prompt, sampled ids and injected ids; batches differ in size; some episodes share their beginning."""
    shared = ids(40)
    episodes = {f"m{n}": (shared if n % 2 else []) + ids(5 + n) for n in range(20)}
    for number in range(3):
        requests = [
            turn(name, prefix, temperature=float(n % 2), max_tokens=4 + n, seed=n)
            for n, (name, prefix) in enumerate(episodes.items())
            if n % (number + 1) == 0
        ]
        completions = await collect(bench, requests)
        for request in requests:
            assert_is_of(bench.weights.first, request, completions[request.id])
            episodes[request.id] = request.ids + completions[request.id].ids + ids(6)
    await bench.engine.forget(list(episodes))


async def test_greedy_is_the_same_alone_and_in_company(bench: Bench, ids: Ids) -> None:
    request = turn("one", ids(30), temperature=0, max_tokens=30)
    alone = (await collect(bench, [request]))["one"]
    company = await collect(bench, [request, *(turn(f"c{n}", ids(10 + n), temperature=1, max_tokens=40) for n in range(9))])
    assert company["one"].ids == alone.ids


async def test_a_turn_ends_with_the_end_of_turn_id(bench: Bench, ids: Ids) -> None:
    requests = [turn(f"s{n}", ids(12), temperature=2, max_tokens=200) for n in range(12)]
    completions = await collect(bench, requests)
    assert FinishReason.STOP in {item.finish_reason for item in completions.values()}
    for request in requests:
        assert_is_of(bench.weights.first, request, completions[request.id])


async def test_min_tokens_bans_the_end_and_keeps_the_log_probs_of_the_policy(bench: Bench, ids: Ids) -> None:
    # nearly uniform, so that without the ban most would end within forty ids
    requests = [turn(f"b{n}", ids(12), temperature=t, max_tokens=48, min_tokens=40) for n, t in enumerate([5, 5, 5, 5, 1, 0])]
    completions = await collect(bench, requests)
    for request in requests:
        completion = completions[request.id]
        assert len(completion.ids) >= 40
        assert not set(completion.ids[:40]) & set(END_IDS)
        truth = bench.weights.first.reference.logprobs(request.ids, completion.ids, request.sampling.temperature)
        assert completion.logprobs == pytest.approx(truth, abs=LOGPROB_TOLERANCE)


async def test_completions_arrive_as_they_finish(bench: Bench, ids: Ids) -> None:
    lengths = [120, 2, 9, 40]
    requests = [turn(f"l{n}", ids(10), temperature=1, max_tokens=n, min_tokens=n) for n in lengths]
    order = [item.id async for item in bench.engine.generate(bench.weights.first.policy, requests)]
    assert order[-1] == "l120"
    assert set(order) == {f"l{n}" for n in lengths}


async def test_ids_log_probs_reason_and_stamp_agree(any_bench: Bench, ids: Ids) -> None:
    requests = [turn(f"k{n}", ids(8), temperature=3, max_tokens=1 + 12 * n) for n in range(8)]
    completions = await collect(any_bench, requests)
    for request in requests:
        completion = completions[request.id]
        assert 0 < len(completion.ids) == len(completion.logprobs) <= request.sampling.max_tokens
        assert all(logprob <= 0 for logprob in completion.logprobs)
        assert completion.policy == any_bench.weights.first.policy
        ended = completion.ids[-1] in any_bench.end_ids
        assert not set(completion.ids[:-1]) & any_bench.end_ids
        assert completion.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
        assert ended or len(completion.ids) == request.sampling.max_tokens


async def test_max_tokens_ends_a_turn(any_bench: Bench, ids: Ids) -> None:
    completions = await collect(any_bench, [turn(f"x{n}", ids(10), temperature=1, max_tokens=n, min_tokens=n) for n in (1, 2, 5)])
    assert {name: (len(item.ids), item.finish_reason) for name, item in completions.items()} == {
        f"x{n}": (n, FinishReason.LENGTH) for n in (1, 2, 5)
    }


async def test_a_full_context_ends_a_turn(bench: Bench, ids: Ids) -> None:
    requests = [turn(f"f{n}", ids(n), temperature=0, max_tokens=500, min_tokens=1) for n in (CONTEXT - 20, CONTEXT, CONTEXT + 100)]
    completions = await collect(bench, requests)
    for request in requests:
        completion = completions[request.id]
        assert len(completion.logprobs) == len(completion.ids) <= max(0, CONTEXT - len(request.ids))
        assert completion.finish_reason is FinishReason.LENGTH or completion.ids[-1] in END_IDS


async def test_a_second_version_answers_as_itself(bench: Bench, ids: Ids) -> None:
    first, second = bench.weights.first, bench.weights.second
    request = turn("v", ids(25), temperature=0, max_tokens=20)
    before = (await collect(bench, [request]))["v"]
    await bench.engine.load(second.policy, second.path, second.sha256)
    assert second.policy in (await bench.engine.info()).policies
    after = (await collect(bench, [request], second.policy))["v"]
    assert_is_of(first, request, before)
    assert_is_of(second, request, after)
    assert after.ids != before.ids
    # and back: nothing of the second version's cache is left in the first's answers
    await bench.engine.load(first.policy, first.path, first.sha256)
    again = (await collect(bench, [request], first.policy))["v"]
    assert (again.ids, again.policy) == (before.ids, first.policy)


async def test_a_policy_that_was_loaded_is_held_and_stamped(any_bench: Bench, ids: Ids) -> None:
    second = any_bench.weights.second
    await any_bench.engine.load(second.policy, second.path, second.sha256)
    assert second.policy in (await any_bench.engine.info()).policies
    completions = await collect(any_bench, [turn("p1", ids(4), max_tokens=3)], second.policy)
    assert completions["p1"].policy == second.policy
    await any_bench.engine.forget(["p1", "never seen"])


@pytest.mark.parametrize("policy", [PolicyVersion(name="tiny", version=99), PolicyVersion(name="other", version=0)])
async def test_a_policy_that_is_not_held_is_refused(any_bench: Bench, ids: Ids, policy: PolicyVersion) -> None:
    with pytest.raises(ConflictError) as caught:
        await collect(any_bench, [turn("u", ids(5))], policy)
    assert caught.value.problem_slug == "policy-not-held"
    assert str(policy) in caught.value.detail


@pytest.mark.parametrize("bad", [[], [7, VOCABULARY], [7, -1]], ids=["empty", "beyond", "negative"])
async def test_ids_that_cannot_be_are_refused_and_the_engine_lives(bench: Bench, ids: Ids, bad: list[int]) -> None:
    with pytest.raises(EngineError) as caught:
        await collect(bench, [turn("good", ids(5), max_tokens=2), turn("bad", bad, max_tokens=2)])
    assert caught.value.problem_slug == "invalid-input"
    request = turn("next", ids(5), temperature=0, max_tokens=5)
    assert_is_of(bench.weights.first, request, (await collect(bench, [request]))["next"])


async def test_other_bytes_than_announced_are_refused(bench: Bench, ids: Ids) -> None:
    second = bench.weights.second
    with pytest.raises(ConflictError) as caught:
        await bench.engine.load(PolicyVersion(name="tiny", version=5), second.path, "0" * 64)
    assert caught.value.problem_slug == "digest-mismatch"
    request = turn("still", ids(5), temperature=0, max_tokens=5)
    assert_is_of(bench.weights.first, request, (await collect(bench, [request]))["still"])


@pytest.mark.parametrize("path", ["..", "tiny/../..", "/etc", "."])
async def test_a_path_outside_of_the_weights_root_is_refused(bench: Bench, path: str) -> None:
    with pytest.raises(EngineError) as caught:
        await bench.engine.load(PolicyVersion(name="tiny", version=6), path, "0" * 64)
    assert caught.value.problem_slug == "path-outside-root"


async def test_closing_the_iterator_aborts(bench: Bench, ids: Ids) -> None:
    requests = [turn(f"a{n}", ids(10), temperature=1, max_tokens=n, min_tokens=n) for n in (1, 1000, 1001)]
    stream = bench.engine.generate(bench.weights.first.policy, requests)
    assert (await anext(stream)).id == "a1"
    assert await running(bench) == 2
    assert isinstance(stream, AsyncGenerator)
    await stream.aclose()
    deadline = time.monotonic() + 2
    while await running(bench):
        assert time.monotonic() < deadline, "the requests still run"
        await asyncio.sleep(0.02)


async def test_info_tells_what_it_is(bench: Bench) -> None:
    info = await bench.engine.info()
    assert (info.kind, info.context_length, info.vocabulary) == (bench.kind, CONTEXT, VOCABULARY)
    assert bench.weights.first.policy in info.policies
    assert info.seeded is (bench.kind is EngineKind.EMBEDDED)


async def running(bench: Bench) -> int:
    """Requests that the engine itself says are generating."""
    async with aiohttp.ClientSession() as session:
        if bench.kind is EngineKind.SGLANG:
            async with session.get(f"{bench.url}/v1/loads?include=core") as answer:
                return sum(load["num_running_reqs"] for load in (await answer.json())["loads"])
        async with session.get(f"{bench.url}/metrics") as answer:
            text = await answer.text()
        return int(text.split("\ncacherl_engine_rows_live ")[1].split()[0])
