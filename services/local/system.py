"""The whole system on this machine: Postgres, four services, a Celery worker, engines.

    with LocalSystem.start(home) as system: …

One process owns it. It checks everything that can be checked before it starts anything; it is up when every part has answered; and when
its owner goes, by the end of the block, Ctrl-C, SIGTERM or SIGKILL, nothing of it keeps running: `stop` ends the parts in order, and what a
dead owner could not end, the kernel (parent-death signal) and the guard do. Everything listens on loopback only.
"""

import os
import secrets
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import psutil
import psycopg
from psycopg import sql

from cacherl.errors import ServiceError
from services.kit import roles, tokens
from services.kit.auth import Scope
from services.kit.keys import create_key
from services.kit.migrate import migrate
from services.local import plan as plans
from services.local import preflight
from services.local.guard import end_marked, start_guard
from services.local.plan import SERVICES, Plan
from services.local.postgres import PostgresServer
from services.local.process import ChildProcess, ProcessSpec, tail
from services.local.runtime import FILE, HomeLock, Runtime, read
from services.local.secret_files import SecretFiles

TENANT = "local"
LIVE_KEY = sql.SQL("select 1 from auth.api_keys where prefix = %s and digest = %s and revoked_at > now() and expires_at > now()")
GUARD_WAIT_S = 20.0


class LocalSystem:
    """A running system; made by `start`."""

    def __init__(self, home: Path, lock: HomeLock) -> None:
        self.home = home
        self.logs = home / "logs"
        self.secrets = SecretFiles(home)
        self.postgres = PostgresServer(home)
        self.marker = secrets.token_hex(16)
        self.children: list[ChildProcess] = []
        self._lock = lock
        self._guard: subprocess.Popen[bytes] | None = None
        self._runtime: Runtime | None = None

    @classmethod
    def start(
        cls,
        home: Path,
        *,
        workers: int = 2,
        engines: int = 2,
        extra: Sequence[ProcessSpec] = (),
        live_servers: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
        services: Sequence[str] = SERVICES,
        engine_context: int = plans.ENGINE_CONTEXT,
    ) -> Self:
        """Starts everything and waits until it is up.

        `extra` are processes of the caller's, started before the services. `live_servers` names live tool servers (name → address).
        `ports` fixes the port of a service; any other is free. Call it from the main thread: children are tied to the thread that makes
        them.
        UsageError, ConflictError or ServiceError say what is in the way; then nothing keeps running.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a system is started from the main thread")
        home = home.resolve()
        preflight.check_home(home)
        _check_components(services, workers=workers, engines=engines)
        fixed = dict(ports or {})
        for name, port in fixed.items():
            preflight.check_port(port, name)
        system = cls(home, HomeLock(home))
        try:
            system._end_leftovers()
            chosen = preflight.free_ports(len(services) + engines)
            plan = Plan(
                ports={name: fixed.get(name, chosen[index]) for index, name in enumerate(services)},
                engine_ports=chosen[len(services) :],
                shared_root=home / "shared",
                secret_paths=system._start_database(),
                live_servers=live_servers or {},
                workers=workers,
                engine_context=engine_context,
            )
            system._start_processes(plan, extra)
        except BaseException:
            system.stop()
            raise
        return system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()

    @property
    def runtime(self) -> Runtime:
        """Addresses, key and pids."""
        assert self._runtime is not None, "the system is not up"
        return self._runtime

    @property
    def owner_dsn(self) -> str:
        """The owner's connection string, for commands that administer."""
        return self.postgres.dsn(user=roles.OWNER, password=self.secrets.ensure(f"password-{roles.OWNER}"), database=roles.DATABASE)

    def ended(self) -> list[ChildProcess]:
        """The processes that should run and do not."""
        return [child for child in self.children if child.returncode is not None]

    def check(self) -> None:
        """ServiceError, with the log's end, where a part of the system has ended."""
        for child in self.ended():
            raise ServiceError(f"{child.spec.name} ended with {child.returncode}; {child.log} ends with:\n{tail(child.log)}")
        if self.postgres.pid is None:
            raise ServiceError(f"Postgres ended; {self.postgres.log} ends with:\n{tail(self.postgres.log)}")

    def stop(self) -> None:
        """Ends everything, Postgres last; may be called twice."""
        (self.home / FILE).unlink(missing_ok=True)
        for child in self.children:
            child.ask_to_stop()
        for child in reversed(self.children):
            child.stop()
        self.children = []
        end_marked(self.marker)
        self.postgres.stop()
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None
        self._lock.release()

    def _end_leftovers(self) -> None:
        """Ends what an owner that was killed left behind and its guard has not ended yet."""
        former = read(self.home)
        if former is not None:
            end_marked(former.marker)
            (self.home / FILE).unlink(missing_ok=True)

    def _start_database(self) -> dict[str, Path]:
        """Postgres, roles, migrations; the files that hold what services must know of it."""
        self.postgres.start()
        passwords = {role: self.secrets.ensure(f"password-{role}") for role in roles.ROLES}
        roles.prepare_server(self.postgres.dsn(), passwords)
        migrate(self.owner_dsn)
        self.secrets.ensure("pepper")
        self.secrets.write("owner_database_url", self.owner_dsn)
        addresses = {
            "database_url": (roles.APP, roles.DATABASE),
            "indexer_database_url": (roles.INDEXER, roles.DATABASE),
            "broker_dsn": (roles.JOBS, roles.JOBS_DATABASE),
        }
        paths = {
            setting: self.secrets.write(setting, self.postgres.dsn(user=role, password=passwords[role], database=database))
            for setting, (role, database) in addresses.items()
        }
        return paths | {"pepper": self.secrets.path("pepper")}

    def _start_processes(self, plan: Plan, extra: Sequence[ProcessSpec]) -> None:
        plan.weights_root.mkdir(parents=True, exist_ok=True)
        self._guard = start_guard(self.marker)
        environment = plans.environment(plan, self.marker)
        specs = [*extra, *plans.engine_specs(plan), *plans.service_specs(plan), *([plans.worker_spec(plan)] if plan.workers else [])]
        for spec in specs:
            self.children.append(ChildProcess(spec, log=self._fresh_log(spec.name), environment=environment, cwd=plans.ROOT))
        self._publish(plan)
        for child in self.children:
            child.await_up()
        self._runtime = replace(self.runtime, up=True)
        self._runtime.write(self.home)

    def _publish(self, plan: Plan) -> None:
        """Written before the parts are up: if we are killed now, the next start still knows the marker."""
        postgres = self.postgres.pid
        self._runtime = Runtime(
            pid=os.getpid(),
            started=psutil.Process().create_time(),
            marker=self.marker,
            urls=plan.urls,
            engines=plan.engines,
            live_servers=dict(plan.live_servers),
            key=self._key(),
            shared_root=str(plan.shared_root),
            logs=str(self.logs),
            processes={child.spec.name: child.pid for child in self.children} | ({"postgres": postgres} if postgres else {}),
        )
        self._runtime.write(self.home)

    def _key(self) -> str:
        """The key of the tenant `local`, made again where the database does not know it."""
        pepper, key = self.secrets.ensure("pepper"), self.secrets.read("api_key")
        if key is not None and tokens.is_well_formed(key):
            with psycopg.connect(self.owner_dsn) as connection:
                if connection.execute(LIVE_KEY, (tokens.prefix(key), tokens.digest(key, pepper.encode()))).fetchone():
                    return key
        key = create_key(self.owner_dsn, pepper, tenant=TENANT, scopes=Scope, label="made by the local system")
        self.secrets.write("api_key", key)
        return key

    def _fresh_log(self, name: str) -> Path:
        """An empty log; the last run's stays beside it."""
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_suffix(".previous.log"))
        return log


def _check_components(services: Sequence[str], *, workers: int, engines: int) -> None:
    modules = [f"services.{name}.app" for name in services]
    modules += ["services.trainer.queue"] if workers else []
    modules += ["services.engine.embedded"] if engines else []
    for module in modules:
        preflight.check_component(module)
