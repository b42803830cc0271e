"""What is measured: the embedded Postgres with its ordinary settings (fsync on), the cache service as one process, and the yardstick."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from services.kit import roles
from services.kit.auth import Scope
from services.kit.keys import create_key
from services.kit.migrate import migrate
from services.local.postgres import PostgresServer
from services.local.preflight import free_ports
from services.local.process import die_with_parent

READY_S = 180.0


@dataclass(frozen=True)
class System:
    """A running system."""

    url: str
    """Of the service without a memory."""
    remembering: str
    """Of the one with the ordinary memory."""
    nothing: str
    key: str
    admin: str
    """Connection string of the superuser."""
    app: str
    """Connection string of the role that the service uses."""
    service: psutil.Process
    postgres: psutil.Process

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"}


def memory(process: psutil.Process) -> int:
    """Resident bytes of a process of its own memory; of Postgres, all its processes with the shared buffers once."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            info = one.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total += info.pss
    return total


@contextmanager
def running(home: Path) -> Iterator[System]:
    """The system on the data in `home`, which is made at first and stays."""
    server = PostgresServer(home)
    with ExitStack() as stack:
        server.start()
        stack.callback(server.stop)
        kept = _prepared(server, home)
        port, remembering, nothing = free_ports(3)
        environment = os.environ | {
            "CACHERL_DATABASE_URL": kept["app"].format(port=server.port),
            "CACHERL_PEPPER": kept["pepper"],
            "CACHERL_LOG_LEVEL": "INFO",
            "OMP_NUM_THREADS": "1",
        }
        log = stack.enter_context((home / "service.log").open("ab"))
        service = _service(stack, environment | {"CACHERL_MEMORY_BYTES": "0"}, log, port)
        _service(stack, environment, log, remembering)
        yardstick = [sys.executable, "-m", "benchmarks.lookup._nothing", str(nothing)]
        _started(stack, yardstick, dict(os.environ), log, f"http://127.0.0.1:{nothing}/openapi.json")
        assert server.pid is not None
        yield System(
            url=f"http://127.0.0.1:{port}",
            remembering=f"http://127.0.0.1:{remembering}",
            nothing=f"http://127.0.0.1:{nothing}",
            key=kept["key"],
            admin=make_conninfo(server.dsn(), dbname=roles.DATABASE),
            app=kept["app"].format(port=server.port),
            service=psutil.Process(service.pid),
            postgres=psutil.Process(server.pid),
        )


def _prepared(server: PostgresServer, home: Path) -> dict[str, str]:
    path = home / "bench.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    passwords = {role: secrets.token_urlsafe(24) for role in roles.ROLES}
    roles.prepare_server(server.dsn(), passwords)
    owner = server.dsn(user=roles.OWNER, password=passwords[roles.OWNER], database=roles.DATABASE)
    migrate(owner)
    pepper = secrets.token_hex(32)
    key = create_key(owner, pepper, tenant="bench", scopes=tuple(Scope))
    app = make_conninfo(host=str(server.sockets), port="{port}", user=roles.APP, password=passwords[roles.APP], dbname=roles.DATABASE)
    kept = {"pepper": pepper, "key": key, "app": app}
    path.touch(mode=0o600)
    path.write_text(json.dumps(kept), encoding="utf-8")
    return kept


def _service(stack: ExitStack, environment: dict[str, str], log: IO[bytes], port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "services.kit.serve", "cache_api"]
    return _started(stack, command, environment | {"CACHERL_PORT": str(port)}, log, f"http://127.0.0.1:{port}/healthz")


def _started(stack: ExitStack, command: list[str], environment: dict[str, str], log: IO[bytes], url: str) -> subprocess.Popen[bytes]:
    with_us = die_with_parent(signal.SIGTERM)
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=with_us)  # noqa: PLW1509 - one prctl call
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    end = time.monotonic() + READY_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own address
            return process
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[2:]} did not start: see service.log") from None
            time.sleep(0.05)


ROWS_AND_PLACE = sql.SQL("select k.tableoid::regclass::text, count(*) from cache.entry_keys k where k.cache_id = %s group by 1")
INDEXES = sql.SQL(
    "select c.relname, pg_relation_size(c.oid) from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = %s::regclass"
)


def sizes(admin: str, cache: str) -> dict[str, int]:
    """Bytes that a cache's keys take, table and indexes: its share by rows of the partition that it lies in."""
    with psycopg.connect(admin) as connection:
        found = connection.execute(ROWS_AND_PLACE, (cache,)).fetchone()
        assert found is not None
        keys, rows = found
        everything = connection.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*keys.split(".")))).fetchone()
        table = connection.execute("select pg_table_size(%s::regclass)", (keys,)).fetchone()
        assert everything is not None
        assert table is not None
        told = dict([("table", table[0]), *connection.execute(INDEXES, (keys,)).fetchall()])
    return {name.removeprefix("entry_keys_"): round(size * rows / everything[0]) for name, size in told.items()}
