"""Which processes make up a system, and what each is told: pure, no process is started here."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.local.guard import MARKER
from services.local.process import ProcessSpec

SERVICES = ("cache_api", "rollout", "reward", "trainer")
ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout: where `services` can be imported."""

ENGINE_CONTEXT, ENGINE_ROWS = 1024, 128
"""What an engine has room for unless it is told."""

DROPPED = ("DATABASE_URL", "PYTHONSTARTUP", "REMAP_SIGTERM")
DROPPED_PREFIXES = ("CACHERL_", "PG", "CELERY_", "OTEL_")


@dataclass(frozen=True, slots=True)
class Plan:
    """Ports and addresses, decided before anything starts."""

    ports: Mapping[str, int]
    """Service → port."""

    engine_ports: Sequence[int]
    shared_root: Path
    secret_paths: Mapping[str, Path]
    """Setting, such as `pepper` → the file that holds it."""

    live_servers: Mapping[str, str] = field(default_factory=dict)
    workers: int = 2
    engine_context: int = ENGINE_CONTEXT
    """Tokens that an engine has room for in one episode."""

    @property
    def engine_rows(self) -> int:
        """Episodes at a time: a longer context means fewer, so that an engine's memory stays what it is."""
        return max(8, ENGINE_ROWS * ENGINE_CONTEXT // self.engine_context)

    @property
    def urls(self) -> dict[str, str]:
        """Service → base address."""
        return {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}

    @property
    def engines(self) -> list[str]:
        """Addresses of the engine processes."""
        return [f"http://127.0.0.1:{port}" for port in self.engine_ports]

    @property
    def weights_root(self) -> Path:
        """Where policies lie that the engines may read."""
        return self.shared_root / "weights"


def environment(plan: Plan, marker: str, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of every process: the user's own without what could redirect ours, then ours."""
    kept = {key: value for key, value in inherited.items() if key not in DROPPED and not key.startswith(DROPPED_PREFIXES)}
    ours = {
        MARKER: marker,
        "CACHERL_SHARED_ROOT": str(plan.shared_root),
        "CACHERL_ENGINES": json.dumps(plan.engines),
        "CACHERL_LIVE_SERVERS": json.dumps(dict(plan.live_servers)),
        **{f"CACHERL_{name.upper()}_URL": url for name, url in plan.urls.items()},
        **{f"CACHERL_{name.upper()}_FILE": str(path) for name, path in plan.secret_paths.items()},
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]),
    }
    return kept | ours


def engine_specs(plan: Plan) -> list[ProcessSpec]:
    """One process for each engine."""
    room = ("--context", str(plan.engine_context), "--rows", str(plan.engine_rows))
    return [
        ProcessSpec(
            f"engine-{index}",
            (sys.executable, "-m", "services.engine.embedded", "--port", str(port), "--weights-root", str(plan.weights_root), *room),
            url=f"http://127.0.0.1:{port}/healthz",
        )
        for index, port in enumerate(plan.engine_ports)
    ]


def service_specs(plan: Plan) -> list[ProcessSpec]:
    """One process for each service; it is up when its dependencies answer."""
    return [
        ProcessSpec(
            name,
            (sys.executable, "-m", "services.kit.serve", name),
            environment={"CACHERL_PORT": str(plan.ports[name])},
            url=f"{url}/readyz",
        )
        for name, url in plan.urls.items()
    ]


def worker_spec(plan: Plan) -> ProcessSpec:
    """The Celery worker: no remote control, no gossip, so the job queue's tables are all it makes.

    SIGTERM is mapped to Celery's soft shutdown: the job is left to its lease rather than waited for.
    """
    options = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--pool", "prefork", "--loglevel", "INFO")
    command = (sys.executable, "-m", "celery", "--app", "services.trainer.queue:app", "worker")
    return ProcessSpec(
        "worker",
        (*command, "--concurrency", str(plan.workers), "--hostname", "worker@%h", *options),
        environment={"REMAP_SIGTERM": "SIGQUIT"},
        ready_text=" ready.",
    )
