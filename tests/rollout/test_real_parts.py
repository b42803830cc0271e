"""The rollout service with the real cache service behind it, and with the real embedded engine."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cacherl.api.cache import CacheCreate
from cacherl.api.rollout import Limits, PolicyPublish, RolloutSampling
from cacherl.client import CacheClient, RolloutClient
from cacherl.episode import Episode, StopReason, violations
from cacherl.errors import ConflictError, NotFoundError
from cacherl.jobs import JobState
from cacherl.rendering import Renderer
from cacherl.testing import InMemoryToolCache, ScriptedEngine, call_text, task, tool
from cacherl.trajectory import Trajectory
from services.cache_api.app import create as create_cache_api
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings
from services.rollout.app import create
from services.rollout.engines import EngineConfig
from services.rollout.settings import RolloutSettings
from tests.rollout.conftest import ANSWER, SHA, TINY, Caches, wanted

BALANCE, PAY = tool("balance", "account", mutating=False), tool("pay", "account", mutating=True)


def trajectory() -> Trajectory:
    """A balance, a payment, the balance after it."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Pay."}]
    for number, (name, result) in enumerate([("balance", "100"), ("pay", "paid"), ("balance", "70")]):
        made = {"id": f"c{number}", "function": {"name": name, "arguments": {"account": "A12"}}}
        messages += [{"role": "assistant", "tool_calls": [made]}, {"role": "tool", "tool_call_id": f"c{number}", "content": result}]
    return Trajectory.model_validate({"id": "run-1", "messages": messages, "tools": [BALANCE, PAY], "scenario": "s", "task_id": "t"})


async def test_episodes_read_what_the_cache_service_recorded(
    rollout_settings: RolloutSettings, settings: ServiceSettings, renderer: Renderer, serve: Any, api_key: Any
):
    key = api_key()
    cache_http = await serve(create_cache_api(CacheSettings(**settings.model_dump())), key)
    read, write = call_text("balance", {"account": "A12"}), call_text("pay", {"account": "A12"})
    script = [read, write + read, ANSWER]
    engine = ScriptedEngine(renderer, script, policies=[])
    here = rollout_settings.model_copy(update={"cache_api_url": str(cache_http.base_url)})
    rollout_http = await serve(create(here, open_engine=lambda _: engine), key)
    async with CacheClient(str(cache_http.base_url), key) as caches, RolloutClient(str(rollout_http.base_url), key) as sdk:
        await caches.create(CacheCreate(name="bank"))
        await caches.ingest("bank", [trajectory()], batch="b")
        await sdk.publish(PolicyPublish(name="tiny", version=0, path="tiny/0", sha256=SHA))
        asked = wanted(cache="bank", tasks=[task(tools=[BALANCE, PAY])], group_size=4)
        accepted = await sdk.create(asked)
        episodes = [episode async for episode in sdk.episodes(accepted.id)]
        assert len(episodes) == 4
        for episode in episodes:
            assert [(str(call.outcome), call.result.content) for call in episode.calls] == [
                ("exact", "100"),
                ("exact", "paid"),
                ("exact", "70"),
            ]
            assert [call.entry.source for call in episode.calls if call.entry] == ["run-1"] * 3
            assert episode.stop_reason is StopReason.FINAL_ANSWER
        with pytest.raises(ConflictError, match="no 99"):
            await sdk.create(wanted(cache="bank", revision=99))
        with pytest.raises(NotFoundError):
            await sdk.create(wanted(cache="nothing"))


@pytest.fixture
def engine_url(rollout_settings: RolloutSettings) -> Iterator[str]:
    root = rollout_settings.weights_root
    command = [sys.executable, "-m", "services.engine.embedded", "--port", "0", "--weights-root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(20)
    process.stdout.close()


def random_weights(folder: Path, renderer: Renderer) -> str:
    """A random policy for the tiny tokenizer; the digest of its weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=renderer.vocabulary.size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        eos_token_id=sorted(renderer.end_of_turn),
        bos_token_id=None,
    )
    transformers.utils.logging.disable_progress_bar()
    keep = (folder / "generation_config.json").read_bytes()
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(keep)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


async def test_episodes_of_the_embedded_engine_keep_every_invariant(
    rollout_settings: RolloutSettings, renderer: Renderer, engine_url: str, serve: Any, api_key: Any
):
    key = api_key()
    sha256 = random_weights(rollout_settings.weights_root / "tiny" / "0", renderer)
    here = rollout_settings.model_copy(update={"engines": [EngineConfig(kind="embedded", url=engine_url)]})
    rollout_http = await serve(create(here, caches=Caches(InMemoryToolCache())), key)
    async with RolloutClient(str(rollout_http.base_url), key) as sdk:
        await sdk.publish(PolicyPublish(name="tiny", version=0, path="tiny/0", sha256=sha256))
        limits, sampling = Limits(max_turns=3, max_tokens=120), RolloutSampling(max_tokens=40)
        first = await _episodes(sdk, limits=limits, sampling=sampling, seed=5)
        again = await _episodes(sdk, limits=limits, sampling=sampling, seed=5)
        assert TINY in (await sdk.engine()).engines[0].policies
    assert len(first) == 32
    assert len({tuple(episode.ids) for episode in first}) > 16
    for episode in first:
        assert violations(episode) == []
        assert episode.turns[0].policy_version == TINY
    # Seeds are the run's, the task's, the episode's and the turn's: the same run samples the same.
    assert _by_place(first) == _by_place(again)


def _by_place(episodes: list[Episode]) -> dict[tuple[int, int], list[int]]:
    return {(episode.group, episode.index): episode.ids for episode in episodes}


async def _episodes(sdk: RolloutClient, **fields: Any) -> list[Episode]:
    accepted = await sdk.create(wanted(4, group_size=8, **fields))
    episodes = [episode async for episode in sdk.episodes(accepted.id)]
    assert (await sdk.get(accepted.id)).state is JobState.SUCCEEDED
    return episodes
