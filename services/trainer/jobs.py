"""The store of jobs: Postgres is the truth.

Every move between states is guarded by `cacherl.jobs.TRANSITIONS` inside the statement that makes it, and everything that a running job
writes carries its fencing token (`attempt`): the writer that lost its lease is refused, whatever it believes. A job's end, what it made,
and what that means for the jobs behind it are one transaction. Each method returns the ids that want a ring of the bell; ringing is the
caller's, after the commit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from cacherl.api.common import Document, Problem, Progress
from cacherl.api.trainer import Job, JobCreate, JobEvent, JobSpec
from cacherl.errors import PROBLEM_URN, ConflictError, NotFoundError
from cacherl.jobs import TRANSITIONS, JobKind, JobState
from services.kit import trace
from services.kit.auth import Caller
from services.kit.identifiers import new_id
from services.kit.postgres import SyncDatabase, SyncRows, load_queries

queries = load_queries(Path(__file__).with_name("queries.sql"))
spec_adapter: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
UPSTREAM = PROBLEM_URN + "upstream"
Row = dict[str, Any]


class LeaseLostError(Exception):
    """The job has another owner by now, or none: this one may write nothing more."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A job that the queue should be told of."""

    job: str
    queue: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed job: whose it is, what to do, and the token to write with."""

    id: str
    tenant: str
    spec: JobSpec
    attempt: int
    tries: int
    key_id: str
    scopes: frozenset[str]
    traceparent: str | None = None
    waiting_since: Any = None


@dataclass(frozen=True, slots=True)
class Reaped:
    """What the reaper found."""

    rings: list[Ring] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


def before(after: JobState) -> list[str]:
    """The states from which `after` may follow."""
    return [state.value for state, next_states in TRANSITIONS.items() if after in next_states]


def problem(slug: str, title: str, detail: str, status: int = 500) -> Problem:
    """Why a job ended, as a problem."""
    return Problem(type=PROBLEM_URN + slug, title=title, status=status, detail=detail)


class JobStore:
    """Jobs of all tenants, each reached under its own."""

    def __init__(self, database: SyncDatabase) -> None:
        self.database = database

    # -- for people -------------------------------------------------------------------------------------------------------------------

    def create(self, connection: SyncRows, request: JobCreate, caller: Caller) -> tuple[Job, list[Ring]]:
        """Inserts a job: queued, blocked by what it needs, or cancelled where that has ended badly. NotFoundError for an unknown one."""
        needs = sorted(set(request.depends_on))
        states = {row["id"]: JobState(row["state"]) for row in connection.execute(queries.lock_jobs, {"ids": needs}).fetchall()}
        missing = [job for job in needs if job not in states]
        if missing:
            raise NotFoundError(f"there is no job {missing[0]} to depend on", slug="no-such-job")
        failed = [job for job, state in states.items() if state in (JobState.FAILED, JobState.CANCELLED)]
        state = JobState.QUEUED if all(s is JobState.SUCCEEDED for s in states.values()) else JobState.BLOCKED
        context = trace.current()
        row = {
            "id": new_id("job"),
            "kind": JobKind(request.spec.kind).value,
            "queue": request.queue,
            "priority": request.priority,
            "label": request.label,
            "spec": request.spec.model_dump_json(),
            "state": (JobState.CANCELLED if failed else state).value,
            "reason": _upstream(failed[0]) if failed else None,
            "key_id": caller.key_id,
            "scopes": sorted(caller.scopes),
            "traceparent": context.traceparent if context else None,
        }
        connection.execute(queries.add_job, row)
        for need in needs:
            connection.execute(queries.add_dependency, {"job": row["id"], "needs": need})
        self._tell_state(connection, row["id"], 0, row["state"])
        rings = [Ring(row["id"], request.queue)] if row["state"] == JobState.QUEUED.value else []
        return self.read(connection, row["id"]), rings

    def read(self, connection: SyncRows, job: str) -> Job:
        """One job. NotFoundError `no-such-job`."""
        row = connection.execute(queries.job, {"id": job}).fetchone()
        if row is None:
            raise NotFoundError(f"there is no job {job}", slug="no-such-job")
        return job_of(row)

    def cancel(self, connection: SyncRows, job: str) -> None:
        """Cancels a job that does not run, asks the worker of one that does. An ended job stays as it is."""
        self.read(connection, job)
        if connection.execute(queries.ask_to_cancel, {"id": job}).fetchone() is None:
            states = [state for state in before(JobState.CANCELLED) if state != JobState.RUNNING.value]
            self._move(connection, job, JobState.CANCELLED, states=states, reason=_cancelled().model_dump_json())

    def retry(self, connection: SyncRows, job: str) -> list[Ring]:
        """Queues a failed or cancelled job again, and what was cancelled behind it waits again. ConflictError for any other."""
        found = self.read(connection, job)
        locked = connection.execute(queries.lock_jobs, {"ids": found.depends_on}).fetchall()
        ready = all(row["state"] == JobState.SUCCEEDED.value for row in locked)
        state = JobState.QUEUED if ready else JobState.BLOCKED
        row = connection.execute(queries.reopen, {"id": job, "state": state.value, "before": [s.value for s in _REOPENED]}).fetchone()
        if row is None:
            raise ConflictError(f"the job is {found.state}: only a failed or cancelled one can be retried", slug="job-not-ended")
        self._tell_state(connection, job, row["attempt"], state.value)
        for other in connection.execute(queries.reblock_dependents, {"id": job, "upstream": UPSTREAM}).fetchall():
            self._tell_state(connection, other["id"], other["attempt"], JobState.BLOCKED.value)
        return [Ring(job, row["queue"])] if ready else []

    def events(self, connection: SyncRows, job: str, after: int, limit: int = 500) -> list[JobEvent]:
        """What happened to a job since event `after`."""
        rows = connection.execute(queries.events, {"job": job, "after": after, "limit": limit}).fetchall()
        return [JobEvent.model_validate(row) for row in rows]

    # -- for workers ------------------------------------------------------------------------------------------------------------------

    def claim(self, queue: str, worker: str, lease_s: float) -> Claim | None:
        """The most urgent queued job of a queue, None where there is none: a second message for the same job finds nothing."""
        with self.database.system() as connection:
            row = connection.execute(queries.claim, {"queue": queue, "worker": worker, "lease_s": lease_s}).fetchone()
        if row is None:
            return None
        fields = {key: row[key] for key in ("id", "tenant", "attempt", "tries", "key_id", "traceparent", "waiting_since")}
        return Claim(**fields, spec=spec_adapter.validate_python(row["spec"]), scopes=frozenset(row["scopes"]))

    def beat(self, claim: Claim, lease_s: float) -> bool:
        """Extends the lease; whether the job is to be cancelled. LeaseLostError where it is not ours any more."""
        with self.database.tenant(claim.tenant) as connection:
            row = connection.execute(queries.beat, {"id": claim.id, "attempt": claim.attempt, "lease_s": lease_s}).fetchone()
        if row is None:
            raise LeaseLostError
        return row["cancelling"]

    @contextmanager
    def fenced(self, claim: Claim) -> Iterator[SyncRows]:
        """A transaction of the token's holder; the job cannot change hands before it ends. LeaseLostError where it already has."""
        with self.database.tenant(claim.tenant) as connection:
            if connection.execute(queries.hold, {"id": claim.id, "attempt": claim.attempt}).fetchone() is None:
                raise LeaseLostError
            yield connection

    def tell(self, claim: Claim, kind: str, data: Document, *, progress: Progress | None = None, stage: str | None = None) -> None:
        """Writes an event and where the job stands. LeaseLostError where it is not ours any more."""
        with self.fenced(claim) as connection:
            row = {"id": claim.id, "attempt": claim.attempt, "progress": progress.model_dump_json() if progress else None, "stage": stage}
            connection.execute(queries.tell_progress, row)
            self._event(connection, claim.id, claim.attempt, kind, data)

    def finish(
        self,
        claim: Claim,
        state: JobState,
        *,
        result: Document | None = None,
        reason: Problem | None = None,
        retry_s: float = 0.0,
    ) -> list[Ring]:
        """Ends this attempt: succeeded, failed, cancelled, waiting for something that is away, or back to the queue.

        LeaseLostError where the job is not ours any more: then nothing is written.
        """
        with self.database.tenant(claim.tenant) as connection:
            moved = self._move(
                connection,
                claim.id,
                state,
                states=[JobState.RUNNING.value],
                attempt=claim.attempt,
                reason=reason.model_dump_json() if reason else None,
                result=to_json(result).decode() if result is not None else None,
                retry_s=retry_s,
                stage=reason.title if reason else None,
            )
        if moved is None:
            raise LeaseLostError
        return moved

    def reap(self, *, max_tries: int, long_queued_s: float) -> Reaped:
        """Takes back what lost its lease, wakes what waited, names again what stands queued for long; ends what was tried too often."""
        with self.database.system() as connection:
            rows = connection.execute(queries.reap, {"max_tries": max_tries, "long_queued_s": long_queued_s}).fetchall()
        found = Reaped(rings=[Ring(row["id"], row["queue"]) for row in rows if row["verdict"] == "ring"])
        for row in rows:
            if row["verdict"] == "ring":
                continue
            exhausted = row["verdict"] == "exhausted"
            reason = problem("too-many-attempts", "It was tried too often", f"{max_tries} workers lost it") if exhausted else _cancelled()
            with self.database.tenant(row["tenant"]) as connection:
                state = JobState.FAILED if exhausted else JobState.CANCELLED
                running, reason_json = [JobState.RUNNING.value], reason.model_dump_json()
                self._move(connection, row["id"], state, states=running, attempt=row["attempt"], reason=reason_json)
            found.ended.append(row["id"])
        return found

    # -- inside a transaction ---------------------------------------------------------------------------------------------------------

    def _move(
        self,
        connection: SyncRows,
        job: str,
        state: JobState,
        *,
        states: Sequence[str],
        attempt: int | None = None,
        reason: str | None = None,
        result: str | None = None,
        retry_s: float = 0.0,
        stage: str | None = None,
    ) -> list[Ring] | None:
        """One guarded transition with what follows from it; None where the job is in no state that allows it."""
        allowed = [name for name in states if name in before(state)]
        row = {"id": job, "state": state.value, "before": allowed, "attempt": attempt, "reason": reason, "result": result}
        moved = connection.execute(queries.move, {**row, "retry_s": retry_s, "stage": stage}).fetchone()
        if moved is None:
            return None
        self._tell_state(connection, job, moved["attempt"], state.value, reason)
        if state is JobState.QUEUED:
            return [Ring(job, moved["queue"])]
        if state is JobState.SUCCEEDED:
            waiting = [row["id"] for row in connection.execute(queries.lock_dependents, {"id": job}).fetchall()]
            return self._told(connection, connection.execute(queries.unblock, {"ids": waiting}).fetchall(), JobState.QUEUED)
        if state in (JobState.FAILED, JobState.CANCELLED):
            because = _upstream(job)
            rows = connection.execute(queries.cancel_dependents, {"id": job, "reason": because}).fetchall()
            self._told(connection, rows, JobState.CANCELLED, because)
        return []

    def _told(self, connection: SyncRows, rows: Sequence[Row], state: JobState, reason: str | None = None) -> list[Ring]:
        for row in rows:
            self._tell_state(connection, row["id"], row["attempt"], state.value, reason)
        return [Ring(row["id"], row["queue"]) for row in rows]

    def _tell_state(self, connection: SyncRows, job: str, attempt: int, state: str, reason: str | None = None) -> None:
        data: Document = {"state": state, "attempt": attempt}
        if reason is not None:
            data["reason"] = Problem.model_validate_json(reason).model_dump(mode="json", exclude_defaults=True)
        self._event(connection, job, attempt, "state", data)

    def _event(self, connection: SyncRows, job: str, attempt: int, kind: str, data: Document) -> None:
        connection.execute(queries.add_event, {"job": job, "attempt": attempt, "kind": kind, "data": to_json(data).decode()})


_REOPENED = [state for state, after in TRANSITIONS.items() if state.final and JobState.QUEUED in after]


def _upstream(job: str) -> str:
    return Problem(type=UPSTREAM, title="A job that it needs ended badly", status=409, detail=job).model_dump_json()


def _cancelled() -> Problem:
    return problem("cancelled", "It was cancelled", "somebody asked for it", 409)


def job_of(row: Row) -> Job:
    """The API's form of a row."""
    fields = ("id", "kind", "state", "label", "attempt", "progress", "stage", "reason", "spec", "depends_on", "result")
    times = ("created_at", "started_at", "finished_at")
    return Job.model_validate({name: row[name] for name in (*fields, *times)})
