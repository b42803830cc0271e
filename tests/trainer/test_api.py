"""The trainer over HTTP: datasets, jobs, events, policies, and who may do what."""

import orjson
import pytest

from cacherl.api.trainer import AugmentSpec, DatasetCreate, GrpoSpec, JobCreate
from cacherl.client import TrainerClient
from cacherl.errors import ConflictError, ForbiddenError, InputError, NotFoundError, UnauthenticatedError
from cacherl.jobs import JobState
from cacherl.trajectory import Task
from services.kit.auth import Scope
from services.kit.postgres import SyncDatabase
from services.trainer import policies
from services.trainer.app import create
from services.trainer.jobs import JobStore
from services.trainer.policies import WrittenVersion
from services.trainer.settings import TrainerSettings
from tests.conftest import serving
from tests.trainer.demonstration import demonstration, tool

JOB = JobCreate(spec=AugmentSpec(dataset="logs", output="thoughtful"))


@pytest.fixture
def trainer_settings(settings, broker_dsn):
    return TrainerSettings(**{**settings.model_dump(), "broker_dsn": broker_dsn, "reap_every_s": 3600.0})


@pytest.fixture
async def trainer(trainer_settings, api_key):
    async with serving(create(trainer_settings)) as url, TrainerClient(url, api_key()) as client:
        client.url = url
        yield client


@pytest.fixture
def store(trainer_settings):
    database = SyncDatabase.open(trainer_settings.database_url, max_size=2)
    yield JobStore(database)
    database.close()


def lines(*values):
    return b"".join((v if isinstance(v, bytes) else orjson.dumps(v)) + b"\n" for v in values)


def logs(count):
    return lines(*[demonstration(n).model_dump(mode="json") for n in range(count)])


async def test_an_upload_in_parts_cut_anywhere_is_imported_as_one_file(trainer):
    content = logs(5)
    dataset = await trainer.create_dataset(DatasetCreate(name="logs"))
    assert dataset.state == "open"
    made = await trainer.upload(dataset.id, [content[:100], content[100:1500], content[1500:]])
    assert (made.state, made.records, made.imported, made.refused) == ("ready", 5, 5, 0)
    records = [record async for record in trainer.records("logs")]
    assert [record["id"] for record in records] == [f"demo/{n}" for n in range(5)]


async def test_bad_lines_are_counted_with_their_numbers_and_stop_nobody_else(trainer):
    good = [demonstration(n).model_dump(mode="json") for n in range(3)]
    dataset = await trainer.create_dataset(DatasetCreate(name="logs", format="cacherl"))
    made = await trainer.upload(dataset.id, [lines(good[0], b"{not json", good[1], {"id": "x"}, good[2])])
    assert (made.records, made.imported, made.refused) == (5, 3, 2)
    found = await trainer.http._client.get(f"/v1/datasets/{dataset.id}/problems")
    assert [problem["line"] for problem in found.json()["items"]] == [2, 4]


async def test_tasks_are_validated_line_by_line(trainer):
    task = Task(id="t", messages=demonstration(1).messages[:1], tools=[tool()], scenario="town").model_dump(mode="json")
    dataset = await trainer.create_dataset(DatasetCreate(name="tasks", kind="tasks"))
    made = await trainer.upload(dataset.id, [lines(task, {**task, "colour": "red"}, task)])
    assert (made.kind, made.records, made.imported, made.refused) == ("tasks", 3, 2, 1)
    assert [Task.model_validate(record).id async for record in trainer.records(dataset.id)] == ["t", "t"]


async def test_a_part_again_replaces_itself_and_a_gap_is_refused(trainer):
    content = logs(2)
    dataset = await trainer.create_dataset(DatasetCreate(name="logs"))
    put, half = trainer.http._client.put, len(content) // 2
    path = f"/v1/datasets/{dataset.id}/parts"
    for number, part in ((0, content[:half]), (0, content[:half]), (2, b"")):
        assert (await put(f"{path}/{number}", content=part)).status_code == 200
    with pytest.raises(InputError):
        await trainer.http.post(f"/v1/datasets/{dataset.id}/complete", None, type(dataset))
    await put(f"{path}/1", content=content[half:])
    made = await trainer.http.post(f"/v1/datasets/{dataset.id}/complete", None, type(dataset))
    again = await trainer.http.post(f"/v1/datasets/{dataset.id}/complete", None, type(dataset))
    assert (made.imported, again) == (2, made)
    assert (await put(f"{path}/3", content=b"late")).status_code == 409


async def test_an_upload_of_which_nothing_can_be_read_is_failed_and_cannot_be_read(trainer):
    dataset = await trainer.create_dataset(DatasetCreate(name="logs"))
    assert (await trainer.upload(dataset.id, [b"what is this\n"])).state == "failed"
    with pytest.raises(ConflictError):
        _ = [record async for record in trainer.records(dataset.id)]


async def test_the_newest_dataset_that_can_be_read_answers_to_a_name(trainer):
    for count in (2, 3):
        dataset = await trainer.create_dataset(DatasetCreate(name="logs"))
        await trainer.upload(dataset.id, [logs(count)])
    await trainer.create_dataset(DatasetCreate(name="logs"))
    assert (await trainer.dataset("logs")).records == 3


async def test_a_job_is_queued_once_however_often_it_is_sent(trainer):
    first, second = await trainer.create_job(JOB, key="k1"), await trainer.create_job(JOB, key="k1")
    assert first == second
    assert first.state is JobState.QUEUED
    with pytest.raises(InputError):
        await trainer.create_job(JOB.model_copy(update={"priority": 1}), key="k1")
    assert [job.id for job in (await trainer.jobs()).items] == [first.id]


async def test_lists_are_paged_newest_first(trainer):
    ids = [(await trainer.create_job(JOB)).id for _ in range(5)]
    found, cursor = [], None
    while True:
        page = await trainer.jobs(limit=2, cursor=cursor)
        found += [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == ids[::-1]


async def test_cancel_and_retry_and_what_depends_on_it(trainer):
    job = await trainer.create_job(JOB)
    behind = await trainer.create_job(JOB.model_copy(update={"depends_on": [job.id]}))
    assert behind.state is JobState.BLOCKED
    assert (await trainer.cancel(job.id)).state is JobState.CANCELLED
    assert (await trainer.cancel(job.id)).state is JobState.CANCELLED
    assert (await trainer.job(behind.id)).reason.slug == "upstream"
    assert (await trainer.retry(job.id)).state is JobState.QUEUED
    assert (await trainer.job(behind.id)).state is JobState.BLOCKED
    with pytest.raises(ConflictError):
        await trainer.retry(job.id)


async def test_events_end_with_the_job_and_resume_after_one(trainer, store):
    job = await trainer.create_job(JOB)
    claim = store.claim("cpu", "w", 60.0)
    store.tell(claim, "metric", {"step": 1, "loss": 0.5})
    store.finish(claim, JobState.SUCCEEDED, result={"dataset": "dst_1"})
    events = [event async for event in trainer.events(job.id)]
    assert [event.kind for event in events] == ["state", "state", "metric", "state"]
    assert [event.id async for event in trainer.events(job.id, after=events[1].id)] == [event.id for event in events[2:]]
    assert (await trainer.job(job.id)).result == {"dataset": "dst_1"}


async def test_metrics_and_artifacts_are_served_whole_and_nothing_else_is(trainer, trainer_settings):
    job = await trainer.create_job(JOB)
    folder = trainer_settings.shared_root / "jobs" / job.id
    (folder / "artifacts").mkdir(parents=True)
    (folder / "metrics.ndjson").write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    (folder / "artifacts" / "evaluation.json").write_bytes(b"{}")
    (folder / "secret.txt").write_bytes(b"no")
    assert [record["step"] async for record in trainer.metrics(job.id)] == [1, 2]
    assert [(a.name, a.bytes) for a in (await trainer.artifacts(job.id)).items] == [("evaluation.json", 2)]
    assert await trainer.artifact(job.id, "evaluation.json") == b"{}"
    for name in ("secret.txt", "..%2Fsecret.txt", ".evaluation"):
        with pytest.raises(NotFoundError):
            await trainer.artifact(job.id, name)


async def test_policies_are_found_by_name_and_a_reserved_version_is_not(trainer, store):
    await trainer.create_job(JOB)
    claim = store.claim("cpu", "w", 60.0)
    with store.fenced(claim) as connection:
        versions = [policies.reserve(connection, "tiny", claim) for _ in range(3)]
        policies.register(connection, WrittenVersion("tiny", 1, "full", "tiny/1", "ab"), claim)
    assert versions == [0, 1, 2]
    assert (await trainer.policy("tiny")).version == 1
    assert [record.name for record in (await trainer.policies()).items] == ["tiny"]
    with pytest.raises(NotFoundError):
        await trainer.policy("other")


async def test_a_policy_name_belongs_to_one_tenant(trainer, store, api_key):
    await trainer.create_job(JOB)
    claim = store.claim("cpu", "w", 60.0)
    with store.fenced(claim) as connection:
        policies.reserve(connection, "tiny", claim)
    async with TrainerClient(trainer.url, api_key(tenant="other")) as other:
        await other.create_job(JOB)
        with pytest.raises(NotFoundError):
            await other.policy("tiny")
    theirs = store.claim("cpu", "w", 60.0)
    with pytest.raises(ConflictError), store.fenced(theirs) as connection:
        policies.reserve(connection, "tiny", theirs)


async def test_no_tenant_sees_another_s(trainer, api_key):
    dataset, job = await trainer.create_dataset(DatasetCreate(name="logs")), await trainer.create_job(JOB)
    async with TrainerClient(trainer.url, api_key(tenant="other")) as other:
        for ask in (other.dataset(dataset.id), other.dataset("logs"), other.job(job.id), other.cancel(job.id), other.artifacts(job.id)):
            with pytest.raises(NotFoundError):
                await ask
        assert (await other.jobs()).items == []


async def test_scopes_decide(trainer, api_key):
    async with TrainerClient(trainer.url, "crl_nobody") as nobody:
        with pytest.raises(UnauthenticatedError):
            await nobody.jobs()
    async with TrainerClient(trainer.url, api_key(scopes=[Scope.CACHE_READ])) as reader:
        with pytest.raises(ForbiddenError):
            await reader.jobs()
    async with TrainerClient(trainer.url, api_key(scopes=[Scope.TRAIN_RUN])) as trainee:
        assert (await trainee.create_job(JOB)).state is JobState.QUEUED
        with pytest.raises(ForbiddenError, match="rollout:run"):
            await trainee.create_job(JobCreate(spec=GrpoSpec(init_policy="a", policy="b", tasks="t", cache="c")))


async def test_unknown_fields_and_formats_are_refused_with_a_pointer(trainer):
    answer = await trainer.http._client.post("/v1/jobs", json={"spec": {"kind": "augment", "dataset": "d", "output": "o", "colour": "red"}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"].endswith("/colour")
    with pytest.raises(InputError):
        await trainer.create_dataset(DatasetCreate(name="logs", format="parquet"))
