"""GRPO on the real parts: cache, rollout and reward services over HTTP, the embedded engine in a process of its own, TRL's trainer."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file

from cacherl.api.cache import CacheCreate
from cacherl.api.rollout import Limits, RolloutSampling
from cacherl.api.trainer import AugmentSpec, Budget, DatasetCreate, GrpoSpec, InitSpec, JobCreate, ModelSpec, SftSpec, TokenizerSpec
from cacherl.client import CacheClient
from cacherl.errors import InputError, ServiceError
from cacherl.trajectory import Reference, Task
from services.cache_api.app import create as create_cache_api
from services.cache_api.settings import CacheSettings
from services.kit.auth import Caller, Scope
from services.kit.postgres import SyncDatabase
from services.reward.app import create as create_reward
from services.reward.settings import RewardSettings
from services.rollout.app import create as create_rollout
from services.rollout.engines import EngineConfig
from services.rollout.settings import RolloutSettings
from services.trainer import checkpoints, datasets, grpo, init, sft
from services.trainer.datasets import DatasetFiles
from services.trainer.demonstrations import prepare, renderer_of
from services.trainer.job import JobContext
from services.trainer.jobs import JobStore
from services.trainer.progress import Silent, Stop, StoppedError
from services.trainer.settings import TrainerSettings
from services.trainer.weights import WeightsRoot
from tests.conftest import serving
from tests.trainer.demonstration import demonstration

TASKS = 16


def task(number: int) -> Task:
    example = demonstration(number)
    calls = [call.call for message in example.messages for call in message.tool_calls]
    reference = Reference(answer=example.messages[-1].content, calls=calls)
    return Task(id=example.task_id, messages=example.messages[:1], tools=example.tools, scenario=example.scenario, reference=reference)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A policy that has seen a little: its episodes are parsed, called and judged, and differ."""
    work = tmp_path_factory.mktemp("policy")
    spec = InitSpec(
        policy="base",
        datasets=["d"],
        tokenizer=TokenizerSpec(vocab_size=500),
        model=ModelSpec(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, feed_forward=64, context=512),
    )
    model, tokenizer = init.build(lambda: (demonstration(n) for n in range(60)), spec)
    rows = prepare((demonstration(n) for n in range(60)), renderer_of(tokenizer), work / "rows", max_length=512, hold_back=0, seed=0)
    short = SftSpec(init_policy="a", policy="b", datasets=["d"], optimizer="muon", learning_rate=5e-3, budget=Budget(steps=150))
    sft.fit(model, tokenizer, rows.train, short, work=work)
    WeightsRoot(work / "weights").write("start", 0, model, tokenizer, {})
    return work / "weights"


class Recorder(Silent):
    """Remembers what is told; asks to stop at a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[dict] = []
        self.stop_after = stop_after

    def metric(self, record):
        self.records.append(orjson.loads(orjson.dumps(dict(record))))

    def stopping(self):
        return Stop.CHECKPOINT if self.stop_after is not None and len(self.records) >= self.stop_after else None


class Bench:
    """The services, and jobs that run against them."""

    def __init__(self, settings: TrainerSettings, key: str) -> None:
        self.settings, self.key = settings, key
        self.database = SyncDatabase.open(settings.database_url, max_size=4)
        self.store, self.files = JobStore(self.database), DatasetFiles(settings.shared_root / "datasets")

    def add_tasks(self) -> None:
        with self.database.tenant("acme") as connection:
            made = datasets.create(connection, DatasetCreate(name="tasks", kind="tasks"))
            self.files.put_part(made.id, 0, b"".join(task(n).model_dump_json().encode() + b"\n" for n in range(TASKS)))
            datasets.complete(connection, self.files, made.id)

    def add_policy(self, source: Path) -> None:
        """Registers the policy as an earlier job would have."""
        context = self.context(Silent())
        model, tokenizer = WeightsRoot(source).load("start/0")
        context.save_policy("start", model, tokenizer, {})

    def context(self, progress: Silent) -> JobContext:
        with self.database.tenant("acme") as connection:
            caller = Caller("acme", frozenset(Scope), "key_" + self.key.split("_")[1])
            self.store.create(connection, JobCreate(spec=AugmentSpec(dataset="d", output="o")), caller)
        claim = self.store.claim("cpu", "w", 600.0)
        return JobContext(claim, self.settings, self.store, progress, self.key)


@pytest.fixture
def engine(settings) -> Iterator[str]:
    root = settings.shared_root / "weights"
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "services.engine.embedded", "--port", "0", "--weights-root", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield process.stdout.readline().strip()
    process.terminate()
    process.wait(20)
    process.stdout.close()


@pytest.fixture
async def bench(settings, engine, api_key, policy) -> AsyncIterator[Bench]:
    key, own = api_key(), settings.model_dump()
    async with AsyncExitStack() as stack:
        cache = await stack.enter_async_context(serving(create_cache_api(CacheSettings(**own))))
        rollout_own = RolloutSettings(**{**own, "cache_api_url": cache}, engines=[EngineConfig(kind="embedded", url=engine)], poll_s=0.05)
        rollout = await stack.enter_async_context(serving(create_rollout(rollout_own)))
        reward = await stack.enter_async_context(serving(create_reward(RewardSettings(**{**own, "rollout_url": rollout}))))
        urls = {"cache_api_url": cache, "rollout_url": rollout, "reward_url": reward}
        opened = Bench(TrainerSettings(**{**own, **urls}), key)
        async with CacheClient(cache, key) as caches:
            await caches.create(CacheCreate(name="town", tools=demonstration(0).tools))
            await caches.ingest("town", [demonstration(n) for n in range(TASKS)], batch="b")
        opened.add_tasks()
        await asyncio.to_thread(opened.add_policy, policy)
        yield opened
        opened.database.close()


def spec(**fields) -> GrpoSpec:
    return GrpoSpec(
        **{
            "init_policy": "start",
            "policy": "better",
            "tasks": "tasks",
            "cache": "town",
            "budget": Budget(steps=4),
            "tasks_per_step": 2,
            "group_size": 4,
            "micro_batch": 4,
            "learning_rate": 1e-3,
            "checkpoint_every": 100,
            "limits": Limits(max_turns=4, max_tokens=160),
            "sampling": RolloutSampling(max_tokens=60),
            **fields,
        }
    )


def weights_of(bench: Bench, policy: dict) -> dict[str, torch.Tensor]:
    return load_file(bench.settings.shared_root / "weights" / policy["name"] / str(policy["version"]) / "model.safetensors")


async def test_a_policy_is_trained_on_its_own_judged_episodes(bench):
    recorder = Recorder()
    context = bench.context(recorder)
    result = await asyncio.to_thread(grpo.run, spec(), context)
    assert result["steps"] == 4
    record = recorder.records[-1]
    assert [r["step"] for r in recorder.records] == [1, 2, 3, 4]
    assert {"reward", "r_answer", "trust", "blame", "outcomes", "zero_groups", "tokens_sampled", "seconds", "logprob_gap"} <= record.keys()
    assert set(record["seconds"]) == {"publish", "rollout", "reward", "update"}
    assert all(r["logprob_gap"] < 1e-4 for r in recorder.records)  # engine and trainer agree on every sampled token
    assert all(r["episodes"] == 8 and r["failed"] == 0 and r["broken"] == 0 for r in recorder.records)
    assert sum(r["trained"] for r in recorder.records) > 0
    assert result["tokens_sampled"] == sum(r["tokens_sampled"] for r in recorder.records)
    name, version = result["policy"]["name"], result["policy"]["version"]
    assert context.policy("better").version == version
    before, after = (load_file(bench.settings.shared_root / "weights" / p / "model.safetensors") for p in ("start/0", f"{name}/{version}"))
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert [p.name for p in (bench.settings.shared_root / "weights" / "better").iterdir()] == [str(version)]


async def test_a_stopped_run_goes_on_to_the_policy_of_one_that_was_not_stopped(bench):
    whole = await asyncio.to_thread(grpo.run, spec(policy="whole"), bench.context(Recorder()))
    cut, first = bench.context(Recorder(stop_after=2)), spec(policy="cut")
    with pytest.raises(StoppedError):
        await asyncio.to_thread(grpo.run, first, cut)
    recorder = Recorder()
    again = JobContext(cut.claim, bench.settings, bench.store, recorder, bench.key)
    resumed = await asyncio.to_thread(grpo.run, first, again)
    assert [record["step"] for record in recorder.records] == [3, 4]
    assert resumed["tokens_sampled"] == whole["tokens_sampled"]
    # Not to the last bit: which requests an engine batches together is a matter of timing, and moves log-probs by a rounding.
    a, b = (weights_of(bench, result["policy"]) for result in (whole, resumed))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=2e-5)


async def test_groups_without_an_advantage_are_counted_replaced_and_not_trained_on(bench):
    recorder = Recorder()
    alike = RolloutSampling(max_tokens=60, temperature=1e-3)  # a group's episodes are all the same
    await asyncio.to_thread(grpo.run, spec(budget=Budget(steps=2), sampling=alike, oversample=0.5), bench.context(recorder))
    for record in recorder.records:
        assert (record["groups"], record["zero_groups"], record["trained"], record["tokens_trained"]) == (3, 3, 0, 0)
    weights = bench.settings.shared_root / "weights"
    before, after = (load_file(next((weights / name).glob("*/model.safetensors"))) for name in ("start", "better"))
    assert all(torch.equal(before[key], after[key]) for key in before)


async def test_lora_is_published_merged_and_kept_as_an_adapter(bench):
    result = await asyncio.to_thread(grpo.run, spec(lora_rank=2, kl=0.01, budget=Budget(steps=2)), bench.context(Recorder()))
    directory = bench.settings.shared_root / "weights" / "better" / str(result["policy"]["version"])
    assert (directory / "adapter" / "adapter_model.safetensors").exists()
    start = load_file(bench.settings.shared_root / "weights" / "start" / "0" / "model.safetensors")
    assert load_file(directory / "model.safetensors").keys() == start.keys()


async def test_greedy_sampling_is_refused_before_anything_is_played(bench):
    with pytest.raises(InputError, match="temperature"):
        await asyncio.to_thread(grpo.run, spec(sampling=RolloutSampling(temperature=0.0)), bench.context(Recorder()))


async def test_a_service_that_is_away_is_no_reward_but_a_reason_to_wait_and_go_on(bench):
    context = bench.context(Recorder())
    here = context.settings
    context.settings = here.model_copy(update={"reward_url": "http://127.0.0.1:9"})
    with pytest.raises(ServiceError):
        await asyncio.to_thread(grpo.run, spec(), context)
    assert checkpoints.newest(context.directory / "checkpoints").manifest.step == 0
    recorder = Recorder()
    again = JobContext(context.claim, here, bench.store, recorder, bench.key)
    assert (await asyncio.to_thread(grpo.run, spec(), again))["steps"] == 4
