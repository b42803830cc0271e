"""The process that does one job: `python -m services.trainer.child JOB`, its order on standard input.

It ends with an exit code that says how, and leaves what it made in `outcome.json`. SIGTERM asks it to save and leave, SIGUSR1 to stop for
good; the end of standard input means that its worker is gone, and then it goes at once: another worker takes the job up from its last
checkpoint.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import structlog
from psycopg import Error as DatabaseError
from psycopg_pool import PoolTimeout
from pydantic import TypeAdapter

from cacherl.api.common import Problem, Progress
from cacherl.api.trainer import JobSpec
from cacherl.errors import AwayError, CacheRLError
from cacherl.jobs import JobKind
from cacherl.wire import Json, Wire
from services.kit import trace
from services.kit.postgres import SyncDatabase
from services.kit.telemetry import configure_logging
from services.trainer import outcome
from services.trainer.job import JobContext
from services.trainer.jobs import Claim, JobStore, LeaseLostError, problem
from services.trainer.outcome import Exit
from services.trainer.progress import Reporter, Stop, StoppedError
from services.trainer.settings import TrainerSettings

TELL_EVERY_S = 1.0
EXIT_OF = {Stop.CHECKPOINT: Exit.SAVED, Stop.CANCEL: Exit.CANCELLED}
log = structlog.get_logger(__name__)


class Order(Wire):
    """What the worker hands over."""

    job: str
    tenant: str
    attempt: int
    tries: int
    token: str
    spec: JobSpec
    key_id: str
    scopes: list[str]
    traceparent: str | None = None

    @property
    def claim(self) -> Claim:
        """The claim that this process acts under."""
        return Claim(self.job, self.tenant, self.spec, self.attempt, self.tries, self.key_id, frozenset(self.scopes), self.traceparent)


class Signals:
    """What the process was asked for."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        signal.signal(signal.SIGTERM, lambda *_: self._ask(Stop.CHECKPOINT))
        signal.signal(signal.SIGUSR1, lambda *_: self._ask(Stop.CANCEL))
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _ask(self, why: Stop) -> None:
        self.stop = why if self.stop is None else self.stop


class Teller:
    """Writes what the job tells to its row and its events, at most once a second of each kind; a database that is away is not told."""

    def __init__(self, store: JobStore, claim: Claim) -> None:
        self._store, self._claim = store, claim
        self._told: dict[str, float] = {}

    def __call__(self, kind: str, data: Mapping[str, Json]) -> None:
        """Tells. LeaseLostError where the job has another owner."""
        now = time.monotonic()
        if kind != "stage" and now - self._told.get(kind, -TELL_EVERY_S) < TELL_EVERY_S:
            return
        self._told[kind] = now
        stage = str(data["stage"]) if kind == "stage" else None
        progress = Progress.model_validate(dict(data)) if kind == "progress" else None
        try:
            event = "log" if kind == "stage" else kind
            self._store.tell(self._claim, event, dict(data), progress=progress, stage=stage)
        except (DatabaseError, PoolTimeout) as error:
            log.warning("not told", action="tell", error=type(error).__name__)


def run(order: Order, settings: TrainerSettings, signals: Signals) -> Exit:
    """Does the job and leaves its outcome."""
    claim = order.claim
    directory = settings.shared_root / "jobs" / claim.id
    database = SyncDatabase.open(settings.worker_dsn, max_size=2, application="cacherl trainer job")
    store = JobStore(database)
    reporter = Reporter(directory / "metrics.ndjson", tell=Teller(store, claim), asked=lambda: signals.stop)
    try:
        began, cpu = time.perf_counter(), time.process_time()
        context = JobContext(claim, settings, store, reporter, order.token)
        result = doer(JobKind(order.spec.kind))(order.spec, context)
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        outcome.leave(directory, outcome.Outcome(attempt=claim.attempt, result={**spent, **result}))
        return Exit.DONE
    except StoppedError as stopped:
        outcome.leave(directory, outcome.Outcome(attempt=claim.attempt))
        return EXIT_OF[stopped.why]
    except LeaseLostError:
        return Exit.LOST
    except CacheRLError as error:
        log.exception("job failed", action="job_failed", job=claim.id)
        outcome.leave(directory, outcome.Outcome(attempt=claim.attempt, reason=Problem.model_validate(error.problem())))
        return Exit.AWAY if isinstance(error, AwayError) else Exit.FAILED
    except Exception as error:
        log.exception("job failed", action="job_failed", job=claim.id)
        reason = problem("job-failed", "The job failed", f"{type(error).__name__}; the job's log says where")
        outcome.leave(directory, outcome.Outcome(attempt=claim.attempt, reason=reason))
        return Exit.FAILED
    finally:
        reporter.close()
        database.close()


def doer(kind: JobKind) -> Callable[[Any, Any], dict[str, Json]]:
    """The function that does a kind of job: `run(spec, context)` of the module of that name."""
    return import_module(f"services.trainer.{kind.value}").run


def watch_worker() -> None:
    """Ends the process at once when standard input ends: its worker is gone."""

    def wait() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os._exit(Exit.LOST)

    threading.Thread(target=wait, name="worker watch", daemon=True).start()


def main() -> None:
    """The command."""
    signals = Signals()
    order = TypeAdapter(Order).validate_json(sys.stdin.buffer.readline())
    watch_worker()
    settings = TrainerSettings()  # pyright: ignore[reportCallIssue] - the environment gives the fields
    configure_logging(level=settings.log_level, form=settings.log_format)
    trace.adopt(trace.begin(order.traceparent))
    structlog.contextvars.bind_contextvars(job=order.job, attempt=order.attempt)
    code = run(order, settings, signals)
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: daemon threads of libraries have nothing to add, and torch's own exit takes seconds.
    os._exit(code)


if __name__ == "__main__":
    main()
