"""Real workers, real processes, a real queue: jobs survive the death of anything and are done once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cacherl.api.trainer import AugmentSpec, Budget, DatasetCreate, InitSpec, JobCreate, ModelSpec, SftSpec, TokenizerSpec
from cacherl.jobs import JobState
from services.kit.auth import Caller, Scope
from services.kit.postgres import SyncDatabase
from services.local.process import die_with_parent
from services.trainer import datasets
from services.trainer.datasets import DatasetFiles
from services.trainer.jobs import JobStore, Ring
from services.trainer.queue import Bell, make_app
from services.trainer.settings import TrainerSettings
from tests.trainer.demonstration import demonstration

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 240.0


def wait_for(condition: Callable[[], object], what: str, seconds: float = DEADLINE_S) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {seconds:.0f} s")


class Shop:
    """A trainer without its HTTP face: store, queue, and workers on demand."""

    def __init__(self, settings: TrainerSettings, key_id: str) -> None:
        self.settings = settings
        self.database = SyncDatabase.open(settings.database_url, max_size=4)
        self.store, self.files = JobStore(self.database), DatasetFiles(settings.shared_root / "datasets")
        self.bell = Bell(make_app(settings))
        self.caller = Caller("acme", frozenset(Scope), key_id)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> subprocess.Popen[bytes]:
        own = self.settings
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CACHERL_")},
            "CACHERL_DATABASE_URL": own.database_url,
            "CACHERL_PEPPER": own.pepper.get_secret_value(),
            "CACHERL_BROKER_DSN": own.broker_dsn or "",
            "CACHERL_SHARED_ROOT": str(own.shared_root),
            "CACHERL_LEASE_S": str(own.lease_s),
            "CACHERL_VISIBILITY_S": str(own.visibility_s),
            "CACHERL_GRACE_S": str(own.grace_s),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "REMAP_SIGTERM": "SIGQUIT",
        }
        command = [sys.executable, "-m", "celery", "--app", "services.trainer.queue:app", "worker", "--concurrency", "1"]
        options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        with (own.shared_root / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*command, *options],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one prctl call, nothing that could lock
            )
        self.workers.append(worker)
        return worker

    def dataset(self, count: int, name: str = "logs") -> str:
        with self.database.tenant("acme") as connection:
            made = datasets.create(connection, DatasetCreate(name=name))
            lines = [demonstration(n).model_dump_json().encode() + b"\n" for n in range(count)]
            self.files.put_part(made.id, 0, b"".join(lines))
            return datasets.complete(connection, self.files, made.id).id

    def submit(self, spec, *needs: str) -> str:
        with self.database.tenant("acme") as connection:
            job, rings = self.store.create(connection, JobCreate(spec=spec, depends_on=list(needs)), self.caller)
        self.bell.ring(rings)
        return job.id

    def job(self, job: str):
        with self.database.tenant("acme") as connection:
            return self.store.read(connection, job)

    def ends(self, job: str, state: JobState = JobState.SUCCEEDED):
        wait_for(lambda: self.job(job).state.final, f"{job} ending")
        found = self.job(job)
        assert found.state is state, (found, self.last_words(job))
        return found

    def runs(self, job: str, attempt: int = 1) -> psutil.Process:
        """The process of an attempt at a job, once it trains."""
        directory = self.settings.shared_root / "jobs" / job

        def found():
            trains = (directory / f"log-{attempt}.txt").exists() and self.job(job).attempt == attempt and self.job(job).stage == "training"
            wanted = ["-m", "services.trainer.child", job]
            alive = [p for p in psutil.process_iter(["cmdline", "status"]) if (p.info["cmdline"] or [])[1:] == wanted]
            awake = [p for p in alive if p.info["status"] not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)]
            return awake[0] if trains and awake else None

        return wait_for(found, f"{job} running")

    def reap(self, long_queued_s: float = 10**6) -> list[Ring]:
        rings = self.store.reap(max_tries=self.settings.max_tries, long_queued_s=long_queued_s).rings
        self.bell.ring(rings)
        return rings

    def last_words(self, job: str) -> str:
        logs = sorted((self.settings.shared_root / "jobs" / job).glob("log-*.txt"))
        return logs[-1].read_text()[-3000:] if logs else ""

    def close(self) -> None:
        for worker in self.workers:
            for process in (*psutil.Process(worker.pid).children(recursive=True), worker) if worker.poll() is None else ():
                process.kill()
            worker.wait()
        self.database.close()


@pytest.fixture
def shop(settings, api_key, broker_dsn, tmp_path) -> Iterator[Shop]:
    key_id = "key_" + api_key().split("_")[1]
    own = TrainerSettings(**{**settings.model_dump(), "broker_dsn": broker_dsn, "lease_s": 3.0, "visibility_s": 5, "grace_s": 10.0})
    own.shared_root.mkdir(parents=True, exist_ok=True)
    opened = Shop(own, key_id)
    yield opened
    opened.close()


MODEL = ModelSpec(hidden=16, layers=2, heads=2, kv_heads=1, head_dim=8, feed_forward=32, context=512)
INIT = InitSpec(policy="base", datasets=["logs"], tokenizer=TokenizerSpec(vocab_size=500), model=MODEL)


def long_sft(**fields):
    return SftSpec(**{"init_policy": "base", "policy": "sft", "datasets": ["logs"], "budget": Budget(seconds=600.0), **fields})


def test_a_chain_of_jobs_runs_from_logs_to_a_policy(shop):
    shop.dataset(60)
    shop.start_worker()
    thoughtful = shop.submit(AugmentSpec(dataset="logs", output="thoughtful"))
    init = shop.submit(INIT.model_copy(update={"datasets": ["thoughtful"]}), thoughtful)
    sft = shop.submit(long_sft(datasets=["thoughtful"], budget=Budget(steps=20)), init)
    assert shop.job(sft).state is JobState.BLOCKED
    made = shop.ends(sft)
    assert shop.ends(thoughtful).result["dataset"]
    assert shop.ends(init).result["policy"] == {"name": "base", "version": 0}
    assert made.result["policy"] == {"name": "sft", "version": 0}
    assert made.result["steps"] == 20
    assert {"seconds", "cpu_seconds", "tokens_trained"} <= made.result.keys()
    weights = shop.settings.shared_root / "weights" / "sft" / "0"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "manifest.json"} <= {p.name for p in weights.iterdir()}


def test_many_messages_for_one_job_have_it_done_once(shop):
    shop.dataset(60)
    job = shop.submit(INIT)
    shop.bell.ring([Ring(job, "cpu")] * 5)
    shop.start_worker()
    shop.start_worker()
    assert shop.ends(job).attempt == 1


def test_a_killed_process_s_job_goes_on_from_its_checkpoint_in_another(shop):
    shop.dataset(60)
    shop.start_worker()
    shop.ends(shop.submit(INIT))
    job = shop.submit(long_sft())
    shop.runs(job).send_signal(signal.SIGKILL)
    wait_for(shop.reap, "the lease running out")
    shop.runs(job, attempt=2)
    with shop.database.tenant("acme") as connection:
        shop.store.cancel(connection, job)
    assert shop.ends(job, JobState.CANCELLED).attempt == 2


def test_a_worker_killed_with_kill_9_takes_its_process_along_and_another_finishes_the_job(shop):
    shop.dataset(60)
    first = shop.start_worker()
    shop.ends(shop.submit(INIT))
    job = shop.submit(long_sft(budget=Budget(seconds=8.0)))
    process = shop.runs(job)
    for member in (*psutil.Process(first.pid).children(recursive=False), psutil.Process(first.pid)):
        member.kill()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the process dying with its worker", 10)
    shop.start_worker()
    wait_for(shop.reap, "the lease running out")
    assert shop.ends(job).attempt == 2


def test_a_worker_that_sleeps_past_its_lease_is_refused_and_the_job_is_done_once(shop):
    shop.dataset(60)
    first = shop.start_worker()
    shop.ends(shop.submit(INIT))
    job = shop.submit(long_sft(budget=Budget(seconds=20.0)))
    process = shop.runs(job)
    sleepers = [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]
    for sleeper in sleepers:
        sleeper.suspend()
    wait_for(shop.reap, "the lease running out")
    shop.start_worker()
    # The sleeper may have fallen asleep with the message in its hand: the reaper rings again for what stands queued for long.
    wait_for(lambda: [shop.reap(long_queued_s=3.0), shop.job(job).attempt == 2][1], "another taking the job up")
    shop.runs(job, attempt=2)
    for sleeper in sleepers:
        sleeper.resume()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "the sleeper's process ending", 30)
    made = shop.ends(job)
    assert made.attempt == 2
    with shop.database.tenant("acme") as connection:
        versions = connection.execute("select attempt from trainer.policies where name = 'sft' and registered_at is not null").fetchall()
    assert [row["attempt"] for row in versions] == [2]


def test_a_worker_that_is_told_to_go_saves_and_another_goes_on(shop):
    shop.dataset(60)
    first = shop.start_worker()
    shop.ends(shop.submit(INIT))
    job = shop.submit(long_sft(budget=Budget(steps=100_000)))
    shop.runs(job)
    (pool,) = psutil.Process(first.pid).children(recursive=False)
    pool.send_signal(signal.SIGTERM)
    wait_for(lambda: shop.job(job).state is JobState.QUEUED, "the job given back", 30)
    checkpoints = sorted((shop.settings.shared_root / "jobs" / job / "checkpoints").glob("step-*"))
    saved = int(checkpoints[-1].name.removeprefix("step-"))
    shop.start_worker()
    shop.bell.ring([Ring(job, "cpu")])
    shop.runs(job, attempt=2)
    wait_for(lambda: shop.job(job).progress.done > saved, "going on where it stood")
    with shop.database.tenant("acme") as connection:
        shop.store.cancel(connection, job)
    shop.ends(job, JobState.CANCELLED)


def test_a_job_that_cannot_be_done_fails_with_a_reason_and_cancels_what_waits_for_it(shop):
    shop.start_worker()
    job = shop.submit(INIT)  # there is no dataset of that name
    behind = shop.submit(long_sft(), job)
    assert shop.ends(job, JobState.FAILED).reason.slug == "no-such-dataset"
    assert shop.ends(behind, JobState.CANCELLED).reason.slug == "upstream"
