"""The store of jobs, held against a model of it, on a real database."""

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cacherl.api.trainer import AugmentSpec, JobCreate
from cacherl.errors import ConflictError, NotFoundError
from cacherl.jobs import JobState, may_follow
from services.kit.auth import Caller, Scope
from services.kit.postgres import SyncDatabase
from services.trainer.jobs import UPSTREAM, Claim, JobStore, LeaseLostError

CALLER = Caller("acme", frozenset(Scope), "key_none")
LEASE_S = 60.0


@pytest.fixture
def store(database_dsns) -> Iterator[JobStore]:
    database = SyncDatabase.open(database_dsns.app, max_size=8)
    yield JobStore(database)
    database.close()


def create(store, *needs, priority=0, tenant="acme"):
    request = JobCreate(spec=AugmentSpec(dataset="d", output="o"), depends_on=list(needs), priority=priority)
    with store.database.tenant(tenant) as connection:
        job, rings = store.create(connection, request, Caller(tenant, CALLER.scopes, "key_none"))
    assert [ring.job for ring in rings] == ([job.id] if job.state is JobState.QUEUED else [])
    return job.id


def read(store, job, tenant="acme"):
    with store.database.tenant(tenant) as connection:
        return store.read(connection, job)


def cancel(store, job):
    with store.database.tenant("acme") as connection:
        store.cancel(connection, job)


def expire(store, job):
    """The clock moves on past the job's lease."""
    with store.database.tenant("acme") as connection:
        connection.execute("update trainer.jobs set lease_until = now() - interval '1 second' where id = %s", (job,))


def test_the_most_urgent_job_is_claimed_first_and_each_once(store):
    low, first, second = create(store), create(store, priority=5), create(store, priority=5)
    assert [store.claim("cpu", "w", LEASE_S).id for _ in range(3)] == [first, second, low]
    assert store.claim("cpu", "w", LEASE_S) is None
    assert store.claim("gpu", "w", LEASE_S) is None


def test_many_workers_that_hear_of_the_same_job_do_it_once(store):
    create(store)
    claims: list[Claim | None] = []
    threads = [threading.Thread(target=lambda: claims.append(store.claim("cpu", "w", LEASE_S))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 1


def test_a_worker_that_lost_its_lease_writes_nothing_more(store):
    job = create(store)
    slow = store.claim("cpu", "slow", LEASE_S)
    expire(store, job)
    with pytest.raises(LeaseLostError):
        store.beat(slow, LEASE_S)
    assert [ring.job for ring in store.reap(max_tries=5, long_queued_s=60).rings] == [job]
    quick = store.claim("cpu", "quick", LEASE_S)
    assert quick.attempt == slow.attempt + 1
    for write in (
        lambda: store.finish(slow, JobState.SUCCEEDED, result={"made_by": "slow"}),
        lambda: store.tell(slow, "metric", {"loss": 1.0}),
        lambda: store.beat(slow, LEASE_S),
    ):
        with pytest.raises(LeaseLostError):
            write()
    store.finish(quick, JobState.SUCCEEDED, result={"made_by": "quick"})
    assert read(store, job).result == {"made_by": "quick"}


def test_a_job_that_too_many_workers_lost_fails_with_the_reason(store):
    job = create(store)
    behind = create(store, job)
    for _ in range(3):
        assert store.claim("cpu", "w", LEASE_S).id == job
        expire(store, job)
        store.reap(max_tries=3, long_queued_s=60)
    assert read(store, job).state is JobState.FAILED
    assert read(store, job).reason.slug == "too-many-attempts"
    assert read(store, behind).reason.type == UPSTREAM


def test_an_orderly_return_counts_no_try(store):
    job = create(store)
    for _ in range(6):
        assert store.finish(store.claim("cpu", "w", LEASE_S), JobState.QUEUED)[0].job == job
    expired = store.claim("cpu", "w", LEASE_S)
    expire(store, job)
    store.reap(max_tries=3, long_queued_s=60)
    assert (expired.tries, read(store, job).state) == (1, JobState.QUEUED)


def test_what_waits_for_something_away_is_woken_when_its_time_has_come(store):
    job = create(store)
    store.finish(store.claim("cpu", "w", LEASE_S), JobState.WAITING, retry_s=3600)
    assert store.reap(max_tries=3, long_queued_s=60).rings == []
    with store.database.tenant("acme") as connection:
        connection.execute("update trainer.jobs set retry_at = now() where id = %s", (job,))
    assert [ring.job for ring in store.reap(max_tries=3, long_queued_s=60).rings] == [job]
    assert store.claim("cpu", "w", LEASE_S).waiting_since is not None


def test_a_job_whose_message_was_never_sent_is_rung_for_again(store):
    job = create(store)
    assert store.reap(max_tries=3, long_queued_s=60).rings == []
    assert [ring.job for ring in store.reap(max_tries=3, long_queued_s=0).rings] == [job]


def test_a_job_runs_once_everything_it_needs_has_succeeded(store):
    a, b = create(store), create(store)
    both = create(store, a, b)
    first, second = store.claim("cpu", "w", LEASE_S), store.claim("cpu", "w", LEASE_S)
    assert store.finish(first, JobState.SUCCEEDED) == []
    assert read(store, both).state is JobState.BLOCKED
    assert [ring.job for ring in store.finish(second, JobState.SUCCEEDED)] == [both]
    assert create(store, a, b)
    assert read(store, both).depends_on == sorted([a, b])


def test_two_that_end_at_once_leave_nobody_blocked(store):
    for _ in range(5):
        a, b = create(store), create(store)
        both = create(store, a, b)
        claims = [store.claim("cpu", "w", LEASE_S) for _ in range(2)]
        threads = [threading.Thread(target=store.finish, args=(claim, JobState.SUCCEEDED)) for claim in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert read(store, both).state is JobState.QUEUED
        assert store.claim("cpu", "w", LEASE_S).id == both


def test_a_failure_cancels_everything_behind_it_and_a_retry_brings_it_back(store):
    a = create(store)
    b = create(store, a)
    c = create(store, b)
    store.finish(store.claim("cpu", "w", LEASE_S), JobState.FAILED)
    assert [read(store, job).state for job in (b, c)] == [JobState.CANCELLED, JobState.CANCELLED]
    assert read(store, c).reason.type == UPSTREAM
    late = create(store, b)
    assert read(store, late).state is JobState.CANCELLED
    with store.database.tenant("acme") as connection:
        assert [ring.job for ring in store.retry(connection, a)] == [a]
    assert [read(store, job).state for job in (a, b, c)] == [JobState.QUEUED, JobState.BLOCKED, JobState.BLOCKED]
    store.finish(store.claim("cpu", "w", LEASE_S), JobState.SUCCEEDED)
    assert read(store, b).state is JobState.QUEUED


def test_cancelling_asks_the_worker_of_a_running_job_and_ends_any_other(store):
    running, waiting = create(store), create(store)
    behind = create(store, waiting)
    claim = store.claim("cpu", "w", LEASE_S)
    cancel(store, running)
    cancel(store, waiting)
    assert read(store, running).state is JobState.RUNNING
    assert store.beat(claim, LEASE_S) is True
    assert [read(store, job).state for job in (waiting, behind)] == [JobState.CANCELLED, JobState.CANCELLED]
    expire(store, running)
    assert store.reap(max_tries=5, long_queued_s=60).ended == [running]
    assert read(store, running).state is JobState.CANCELLED


def test_only_an_ended_job_can_be_retried_and_an_unknown_one_cannot_be_needed(store):
    job = create(store)
    with store.database.tenant("acme") as connection, pytest.raises(ConflictError):
        store.retry(connection, job)
    with pytest.raises(NotFoundError):
        create(store, "job_nobody")


def test_a_tenant_sees_and_needs_its_own_jobs_alone(store):
    job = create(store)
    with pytest.raises(NotFoundError):
        read(store, job, tenant="other")
    with pytest.raises(NotFoundError):
        create(store, job, tenant="other")


def test_events_are_numbered_and_resumable(store):
    job = create(store)
    claim = store.claim("cpu", "w", LEASE_S)
    store.tell(claim, "metric", {"step": 1})
    store.finish(claim, JobState.SUCCEEDED)
    with store.database.tenant("acme") as connection:
        events = store.events(connection, job, 0)
        assert [event.data.get("state") or event.data.get("step") for event in events] == ["queued", "running", 1, "succeeded"]
        assert store.events(connection, job, events[1].id) == events[2:]


class Jobs(RuleBasedStateMachine):
    """Any order of what people, workers and the clock may do: the store's states are the model's, and every move is one of the table."""

    jobs, claims = Bundle("jobs"), Bundle("claims")
    database: SyncDatabase

    @initialize()
    def begin(self):
        self.store = JobStore(self.database)
        with self.database.tenant("acme") as connection:
            connection.execute("delete from trainer.job_dependencies")
            connection.execute("delete from trainer.jobs")
        self.state: dict[str, JobState] = {}
        self.needs: dict[str, list[str]] = {}
        self.owner: dict[str, Claim] = {}

    @rule(target=jobs, needed=st.lists(jobs, max_size=2, unique=True))
    def submit(self, needed):
        job = create(self.store, *needed)
        self.needs[job] = needed
        states = [self.state[need] for need in needed]
        bad = any(state in (JobState.FAILED, JobState.CANCELLED) for state in states)
        self.state[job] = JobState.CANCELLED if bad else self._ready(job)
        return job

    @rule(target=claims)
    def claim(self):
        claim = self.store.claim("cpu", "w", LEASE_S)
        queued = [job for job, state in self.state.items() if state is JobState.QUEUED]
        if claim is None:
            assert not queued
            return multiple()
        assert claim.id in queued
        self._to(claim.id, JobState.RUNNING)
        self.owner[claim.id] = claim
        return claim

    @rule(claim=consumes(claims), end=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.WAITING, JobState.QUEUED]))
    def finish(self, claim, end):
        if self.owner.get(claim.id) != claim:
            with pytest.raises(LeaseLostError):
                self.store.finish(claim, end, retry_s=3600)
            return
        self.store.finish(claim, end, retry_s=3600)
        self._ended(claim.id, end)

    @rule(claim=claims)
    def lose_the_lease(self, claim):
        if self.owner.get(claim.id) != claim:
            return
        expire(self.store, claim.id)
        self.store.reap(max_tries=10**6, long_queued_s=10**6)
        cancelling = read(self.store, claim.id).state is JobState.CANCELLED
        self._ended(claim.id, JobState.CANCELLED if cancelling else JobState.QUEUED)

    @rule(job=jobs)
    def cancel(self, job):
        cancel(self.store, job)
        if not self.state[job].final and self.state[job] is not JobState.RUNNING:
            self._ended(job, JobState.CANCELLED)

    @rule(job=jobs)
    def retry(self, job):
        with self.database.tenant("acme") as connection:
            if self.state[job] not in (JobState.FAILED, JobState.CANCELLED):
                with pytest.raises(ConflictError):
                    self.store.retry(connection, job)
                return
            self.store.retry(connection, job)
        self._to(job, self._ready(job))
        for other in self.state:
            if self.state[other] is JobState.CANCELLED and read(self.store, other).state is JobState.BLOCKED:
                self._to(other, JobState.BLOCKED)

    def _ready(self, job):
        return JobState.QUEUED if all(self.state[need] is JobState.SUCCEEDED for need in self.needs[job]) else JobState.BLOCKED

    def _to(self, job, state):
        assert may_follow(self.state[job], state), (self.state[job], state)
        self.state[job] = state

    def _ended(self, job, state):
        self._to(job, state)
        self.owner.pop(job, None)
        if state is JobState.SUCCEEDED:
            for other, needs in self.needs.items():
                if job in needs and self.state[other] is JobState.BLOCKED:
                    self.state[other] = self._ready(other)
        if state in (JobState.FAILED, JobState.CANCELLED):
            for other, needs in self.needs.items():
                if job in needs and self.state[other] is JobState.BLOCKED:
                    self._ended(other, JobState.CANCELLED)

    @invariant()
    def states_agree(self):
        if hasattr(self, "store"):
            assert {job: read(self.store, job).state for job in self.state} == self.state


def test_the_store_behaves_as_its_model_whatever_happens(database_dsns):
    database = SyncDatabase.open(database_dsns.app, max_size=4)
    machine = type("JobsOnDatabase", (Jobs,), {"database": database})
    machine.TestCase.settings = settings(
        max_examples=25, stateful_step_count=30, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck)
    )
    try:
        machine.TestCase("runTest").runTest()
    finally:
        database.close()
