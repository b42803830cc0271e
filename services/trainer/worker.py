"""What a worker does when the bell rings: claims a job, has a process of its own do it, and holds the lease meanwhile.

The process gets its order (claim and delegation) through standard input, never through arguments or environment, and dies with the
worker. The worker beats for the lease, forwards a wish to cancel and its own SIGTERM ("save and leave"), and moves the row when the
process has ended. A worker whose lease is lost kills the process and writes nothing. What the process itself writes carries the same
token, so even one that was not killed in time is refused.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import orjson
import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout

from cacherl.api.common import Document, Problem
from cacherl.errors import ForbiddenError
from cacherl.jobs import JobState
from services.kit.auth import Caller, delegate_sync, end_delegations_sync, known_scopes, renew_sync
from services.kit.postgres import SyncDatabase
from services.trainer import outcome
from services.trainer.jobs import Claim, JobStore, LeaseLostError, Ring, problem
from services.trainer.outcome import Exit
from services.trainer.settings import TrainerSettings

PR_SET_PDEATHSIG = 1
POLL_S = 0.05
FORWARDED = {signal.SIGTERM: "save", signal.SIGUSR1: "cancel"}
log = structlog.get_logger(__name__)
Away = (DatabaseError, PoolTimeout)


def answer(settings: TrainerSettings, queue: str) -> None:
    """Does the most urgent job of a queue, if there is one."""
    database = SyncDatabase.open(settings.worker_dsn, max_size=2, application="cacherl trainer worker")
    try:
        store = JobStore(database)
        claim = store.claim(queue, f"{socket.gethostname()}:{os.getpid()}", settings.lease_s)
        if claim is None:
            return
        log.info("job claimed", action="job_claimed", job=claim.id, kind=claim.spec.kind, attempt=claim.attempt)
        rings = Attempt(settings, database, store, claim).run()
        if rings:
            from services.trainer.queue import Bell, make_app  # noqa: PLC0415 - the queue imports this module

            Bell(make_app(settings)).ring(rings)
    finally:
        database.close()


class Attempt:
    """One attempt at a job by this worker."""

    def __init__(self, settings: TrainerSettings, database: SyncDatabase, store: JobStore, claim: Claim) -> None:
        self.settings, self.database, self.store, self.claim = settings, database, store, claim
        self.directory = settings.shared_root / "jobs" / claim.id
        self._token = ""
        self._held_until = time.monotonic() + settings.lease_s
        self._renew_at = time.monotonic() + settings.delegation_s / 2
        self._leaving = self._cancelling = False
        self._deadline: float | None = None

    def run(self) -> list[Ring]:
        """Has the job done; who is to be rung for then."""
        self.directory.mkdir(parents=True, exist_ok=True)
        before = signal.signal(signal.SIGTERM, self._leave)
        try:
            self._token = self._delegate()
            process = self._start()
            try:
                self._watch(process)
            finally:
                _kill(process)
            return self._finish(process.returncode)
        except ForbiddenError as error:
            return self._end(JobState.FAILED, reason=Problem.model_validate(error.problem()))
        except LeaseLostError:
            log.warning("lease lost", action="lease_lost", job=self.claim.id, attempt=self.claim.attempt)
            return []
        finally:
            signal.signal(signal.SIGTERM, before)

    def _leave(self, *_: object) -> None:
        self._leaving = True

    def _delegate(self) -> str:
        scopes = known_scopes(list(self.claim.scopes))
        caller = Caller(self.claim.tenant, scopes, self.claim.key_id, self.claim.id)
        return delegate_sync(self.database, caller, scopes=scopes, job_id=self.claim.id, lifetime_s=self.settings.delegation_s)

    def _start(self) -> subprocess.Popen[bytes]:
        order = {"job": self.claim.id, "tenant": self.claim.tenant, "attempt": self.claim.attempt, "token": self._token}
        order |= {"spec": self.claim.spec.model_dump(mode="json"), "tries": self.claim.tries, "key_id": self.claim.key_id}
        order |= {"scopes": sorted(self.claim.scopes), "traceparent": self.claim.traceparent}
        with (self.directory / f"log-{self.claim.attempt}.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.trainer.child", self.claim.id],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - one system call, nothing that could lock
            )
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(order) + b"\n")
        process.stdin.flush()  # left open: its end tells the process that this worker is gone
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        beat_at = time.monotonic() + self.settings.lease_s / 3
        while process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            if now >= beat_at:
                self._beat()
                beat_at = time.monotonic() + self.settings.lease_s / 3
            if (self._leaving or self._cancelling) and self._deadline is None:
                process.send_signal(signal.SIGUSR1 if self._cancelling else signal.SIGTERM)
                self._deadline = now + self.settings.grace_s
            if self._deadline is not None and now > self._deadline:
                return

    def _beat(self) -> None:
        """Extends the lease; a database that is away is forgiven until the lease has run out."""
        began = time.monotonic()
        try:
            self._cancelling = self.store.beat(self.claim, self.settings.lease_s) or self._cancelling
            self._held_until = began + self.settings.lease_s
            if began > self._renew_at and renew_sync(self.database, self._token, lifetime_s=self.settings.delegation_s):
                self._renew_at = began + self.settings.delegation_s / 2
        except Away as error:
            log.warning("no beat", action="beat_failed", job=self.claim.id, error=type(error).__name__)
            if time.monotonic() > self._held_until:
                raise LeaseLostError from error

    def _finish(self, code: int) -> list[Ring]:
        left = outcome.find(self.directory, self.claim.attempt)
        if code == Exit.LOST:
            raise LeaseLostError
        if self._cancelling and code != Exit.DONE:
            return self._end(JobState.CANCELLED, reason=problem("cancelled", "It was cancelled", "somebody asked for it", 409))
        if code in outcome.STATE_OF and left is not None:
            return self._ended(outcome.STATE_OF[Exit(code)], left)
        if self._leaving:
            return self._end(JobState.QUEUED)
        return self._crashed(code)

    def _ended(self, state: JobState, left: outcome.Outcome) -> list[Ring]:
        since = self.claim.waiting_since
        if state is JobState.WAITING and since is not None and time.time() - since.timestamp() > self.settings.max_waiting_s:
            state = JobState.FAILED
        return self._end(state, result=left.result if state is JobState.SUCCEEDED else None, reason=left.reason)

    def _crashed(self, code: int) -> list[Ring]:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        reason = problem("job-crashed", "Its process died", f"attempt {self.claim.attempt} {how}; the job's log has its last words")
        log.error("job crashed", action="job_crashed", job=self.claim.id, attempt=self.claim.attempt, code=code)
        # Not an orderly return: the lease is let run out, so that the try counts and a crash loop is slow.
        if self.claim.tries >= self.settings.max_tries:
            return self._end(JobState.FAILED, reason=reason)
        return []

    def _end(self, state: JobState, *, result: Document | None = None, reason: Problem | None = None) -> list[Ring]:
        rings = self.store.finish(self.claim, state, result=result, reason=reason, retry_s=self.settings.retry_s)
        end_delegations_sync(self.database, tenant=self.claim.tenant, job_id=self.claim.id)
        log.info("job ended", action="job_ended", job=self.claim.id, attempt=self.claim.attempt, state=state.value)
        return rings


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a process runs before it becomes the job's: killed as soon as its worker is gone; None where no system call does it."""
    if sys.platform != "linux":
        return None
    import ctypes  # noqa: PLC0415 - Linux alone

    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(Exit.LOST)

    return ask


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
