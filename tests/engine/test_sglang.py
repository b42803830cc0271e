"""What the SGLang client promises beyond the seam: weights that change while requests run, and updates that fail."""

import asyncio
import shutil
from typing import Any

import pytest
import safetensors.torch

from cacherl.engine import Completion, FinishReason, PolicyVersion, VersionSpan
from cacherl.errors import ConflictError, EngineError
from services.rollout.engines import EngineConfig, EngineKind, open_engine
from services.rollout.engines.sglang import read_answer
from services.rollout.engines.weight_sync import parse_label
from tests.engine.conftest import Bench, Ids
from tests.engine.test_seam import assert_is_of, collect, running, turn
from tests.engine.tiny import digest

on_sglang = [pytest.mark.sglang, pytest.mark.xdist_group("sglang")]


async def start_long_turns(bench: Bench, ids: Ids) -> tuple[asyncio.Task[dict[str, Completion]], dict[str, list[int]]]:
    """Turns long enough to be caught in the middle."""
    requests = [turn(f"w{n}", ids(10), temperature=1, max_tokens=700) for n in range(4)]
    task = asyncio.create_task(collect(bench, requests))
    while await running(bench) < len(requests):
        assert not task.done()
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    return task, {request.id: request.ids for request in requests}


class TestWeightChanges:
    pytestmark = on_sglang

    async def test_a_turn_says_which_of_its_ids_came_from_which_version(self, sglang: Bench, ids: Ids) -> None:
        first, second = sglang.weights.first, sglang.weights.second
        task, prefixes = await start_long_turns(sglang, ids)
        await sglang.engine.load(second.policy, second.path, second.sha256)
        completions = await task
        spanned = [item for item in completions.values() if item.versions]
        assert spanned, "no turn was caught in the middle"
        for item in spanned:
            assert item.policy == first.policy
            assert [span.version for span in item.versions] == [0, 1]
            cut = item.versions[1].start
            prefix = prefixes[item.id]
            old = first.reference.logprobs(prefix, item.ids[:cut])
            new = second.reference.logprobs(prefix + item.ids[:cut], item.ids[cut:])
            assert item.logprobs == pytest.approx(old + new, abs=1e-5)

    @pytest.mark.parametrize("break_it", ["narrow", "missing"])
    async def test_weights_that_do_not_fit_are_refused_before_anything_happens(self, sglang: Bench, ids: Ids, break_it: str) -> None:
        """SGLang itself would take both: a tensor that is missing keeps its old values, one that is narrow is padded."""
        first = sglang.weights.first
        directory = sglang.weights.root / "unfit" / break_it
        shutil.copytree(sglang.weights.root / sglang.weights.second.path, directory)
        tensors = safetensors.torch.load_file(directory / "model.safetensors")
        tensor = tensors.pop("model.layers.1.mlp.down_proj.weight")
        if break_it == "narrow":
            tensors["model.layers.1.mlp.down_proj.weight"] = tensor[:, :-1].contiguous()
        safetensors.torch.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EngineError, match="down_proj") as caught:
            await sglang.engine.load(PolicyVersion(name="unfit", version=0), f"unfit/{break_it}", digest(directory))
        assert caught.value.problem_slug == "weights-do-not-fit"
        request = turn("after", ids(20), temperature=0, max_tokens=10)
        assert_is_of(first, request, (await collect(sglang, [request]))["after"])

    async def test_a_version_never_changes(self, sglang: Bench) -> None:
        first, second = sglang.weights.first, sglang.weights.second
        await sglang.engine.load(second.policy, second.path, second.sha256)
        with pytest.raises(ConflictError, match="never changes"):
            await sglang.engine.load(second.policy, first.path, first.sha256)


def answer(ids: list[int], spans: list[tuple[str, int, int]], finish: str = "stop") -> dict[str, Any]:
    meta = {
        "output_token_logprobs": [[-0.5, token, None] for token in ids],
        "weight_versions": [{"version": label, "start": start, "end": end} for label, start, end in spans],
        "weight_version": spans[-1][0],
        "finish_reason": {"type": finish},
    }
    return {"output_ids": ids, "meta_info": meta}


def test_an_answer_of_two_versions_is_stamped_with_the_older() -> None:
    completion = read_answer("r", "p", answer([7, 8, 9], [("p@3", 0, 2), ("p@4", 2, 3)], "abort"))
    assert completion.policy == PolicyVersion(name="p", version=3)
    assert completion.versions == [VersionSpan(start=0, version=3), VersionSpan(start=2, version=4)]
    assert completion.finish_reason is FinishReason.ABORT


def test_log_probs_of_other_ids_are_refused() -> None:
    wrong = answer([7, 8], [("p@3", 0, 2)])
    wrong["output_ids"] = [7, 9]
    with pytest.raises(EngineError, match="not theirs"):
        read_answer("r", "p", wrong)


@pytest.mark.parametrize(("label", "error"), [("other@3", ConflictError), ("default", EngineError)])
def test_an_answer_of_another_policy_is_refused(label: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_answer("r", "p", answer([7], [(label, 0, 1)]))


@pytest.mark.parametrize("label", ["default", "p@", "p@x", "@3", "p@-1", "p q@3", ""])
def test_labels_that_name_no_version(label: str) -> None:
    assert parse_label(label) is None


def test_a_label_may_contain_dots_and_dashes() -> None:
    assert parse_label("qwen3-4b.sft@12") == PolicyVersion(name="qwen3-4b.sft", version=12)


async def test_an_sglang_engine_needs_a_weights_root() -> None:
    with pytest.raises(ValueError, match="weights_root"):
        open_engine(EngineConfig(kind=EngineKind.SGLANG, url="http://127.0.0.1:1"))
