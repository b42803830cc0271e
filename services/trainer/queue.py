"""The queue: a doorbell and no more.

A message names a job; whoever hears it claims the most urgent queued job of that queue, so a message that comes twice, late or never does
no harm: the row decides, and the reaper rings again. Celery carries it, on kombu's pgmq transport in the same Postgres by default. A
message is acknowledged as soon as it is heard. `services.trainer.queue:app` is Celery's entry point, made from the environment.
"""

import os
from collections.abc import Iterable
from typing import Any

import structlog
from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import KombuError
from psycopg import Error as DatabaseError

from services.trainer.jobs import Ring
from services.trainer.settings import TrainerSettings

RING = "trainer.ring"
QUEUES = ("cpu", "gpu")
SESSION = "-c idle_in_transaction_session_timeout=5000 -c lock_timeout=10000"
"""Of a worker's connections to the queue: the transport reads in a transaction, and one that is stopped there must not hold the queue up.

The transport takes host, database and account alone from its connection string, so this goes the way of the environment.
"""

log = structlog.get_logger(__name__)


def make_app(settings: TrainerSettings) -> Celery:
    """The Celery application of these settings, with its one task."""
    app = Celery("trainer", broker=settings.broker_url)
    app.conf.update(
        broker_transport_options=_transport_options(settings),
        broker_connection_retry_on_startup=True,
        task_queues=[Queue(f"cacherl_{name}") for name in QUEUES],
        task_default_queue="cacherl_cpu",
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_lost_wait=1.0,
    )

    @app.task(name=RING, bind=True)
    def ring(task: Any, job: str) -> None:  # pyright: ignore[reportUnusedFunction] - Celery finds it by its name
        """Somebody rang: claims a queued job and does it. `job` says whom the ring was for; the row decides."""
        from services.trainer.worker import answer  # noqa: PLC0415 - the service rings and never answers

        answer(settings, task.request.delivery_info.get("routing_key", "").removeprefix("cacherl_") or "cpu")

    return app


def _transport_options(settings: TrainerSettings) -> dict[str, Any]:
    if not settings.broker_url.startswith("pgmq"):
        return {"visibility_timeout": settings.visibility_s}
    # Always named: the transport would take DATABASE_URL from the environment before the broker's own address.
    return {
        "conn_string": settings.broker_dsn,
        "init_extension": False,
        "visibility_timeout": settings.visibility_s,
        "wait_time_seconds": 1,
        "poll_interval_ms": 50,
        "pool_size": 4,
    }


class Bell:
    """Rings for jobs. A broker that is away is no error: the reaper rings again."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ring(self, rings: Iterable[Ring]) -> None:
        """Sends one message for each."""
        for one in rings:
            try:
                self._app.send_task(RING, args=[one.job], queue=f"cacherl_{one.queue}", retry=False)
            except (KombuError, DatabaseError, OSError) as error:
                log.warning("the bell is out of order", action="ring", job=one.job, error=type(error).__name__)


def __getattr__(name: str) -> Celery:
    """`app`, made when Celery asks for it: importing this module needs no environment."""
    if name != "app":
        raise AttributeError(name)
    os.environ.setdefault("PGOPTIONS", SESSION)
    app = make_app(TrainerSettings())  # pyright: ignore[reportCallIssue] - the environment gives the fields
    globals()["app"] = app
    return app
