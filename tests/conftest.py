"""Fixtures that every test may use. All are safe under `pytest -n`.

One Postgres serves the whole run, for all xdist workers: the first test that asks starts it (a file lock decides who), it ends with the
run even when the run is killed. Each database is a fresh copy of a migrated template (about 0.1 s).

    scratch               (session)  the server: `services.local.scratch.Scratch`
    database_dsns         (function) a fresh database: `.app`, `.owner`, `.indexer`, `.admin` connection strings
    module_database_dsns  (module)   the same, shared by the tests of a module
    new_database          (session)  a factory of more databases, dropped at the end of the run
    database              (function) an open `services.kit.postgres.Database` on `database_dsns.app`
    broker_dsn            (function) a fresh database with pgmq, as the role `cacherl_jobs` (Celery: `pgmq://`, `conn_string`)
    pepper                (session)  the pepper of the keys below
    api_key               (function) `api_key(scopes=…, tenant="acme", expires_at=None)`: a key in `database_dsns`; default: all
    settings              (function) `ServiceSettings` on `database_dsns`; `settings.model_dump() | {…}` feeds a subclass
    serve                 (function) `client = await serve(app, key=None)` runs the app with its lifespan on a real loopback port and
                                     gives an `httpx2.AsyncClient` for it; `key` becomes the Authorization header
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import httpx2
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from services.kit.auth import Scope
from services.kit.keys import create_key
from services.kit.postgres import Database
from services.kit.settings import ServiceSettings
from services.local import scratch as scratch_server
from services.local.scratch import DatabaseDsns, Scratch

FOLDER = "CACHERL_TESTS_FOLDER"
CONTROLLER = "CACHERL_TESTS_CONTROLLER"
START_DEADLINE_S = 120.0
ApiKey = Callable[..., str]
Serve = Callable[..., Awaitable[httpx2.AsyncClient]]


def pytest_configure(config: pytest.Config) -> None:
    """The controller names the run's folder; workers inherit it."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="crl-tests-")
        # Postgres does not run as root: its account must be able to pass through.
        Path(folder).chmod(0o711)
        os.environ[FOLDER], os.environ[CONTROLLER] = folder, str(os.getpid())
    # Unconfigured, structlog renders the local variables of every frame: seconds for each unexpected error.
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.dev.ConsoleRenderer()])


def pytest_unconfigure(config: pytest.Config) -> None:
    """The controller ends the server that any worker started."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(os.environ.pop(FOLDER))
    pid_file = folder / "pid"
    if pid_file.exists():
        pid = int(pid_file.read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, 15)
        end = time.monotonic() + 60
        while (folder / "postgres").exists() and time.monotonic() < end:
            time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _start_scratch(folder: Path) -> Scratch:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / scratch_server.FILE).exists():
            command = [sys.executable, "-m", "services.local.scratch", str(folder), os.environ[CONTROLLER]]
            with (folder / "log").open("ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
            (folder / "pid").write_text(str(process.pid))
            end = time.monotonic() + START_DEADLINE_S
            while not (folder / scratch_server.FILE).exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, "the test database did not start"
                time.sleep(0.05)
            # It outlives this process on purpose; the controller ends it.
            process.returncode = 0
    return scratch_server.read(folder)


@pytest.fixture(scope="session")
def scratch() -> Scratch:
    return _start_scratch(Path(os.environ[FOLDER]))


@pytest.fixture(scope="session")
def new_database(scratch: Scratch) -> Iterator[Callable[[], DatabaseDsns]]:
    names: list[str] = []

    def make() -> DatabaseDsns:
        name, dsns = scratch.new_database()
        names.append(name)
        return dsns

    yield make
    for name in names:
        scratch.drop(name)


def _require_migrations(scratch: Scratch, request: pytest.FixtureRequest) -> None:
    """A component whose migrations fail breaks its own tests and the kit's breaks all; another's unfinished schema breaks nobody else's."""
    parts = set(request.path.parts)
    for component, reason in scratch.broken.items():
        assert component not in parts | {"kit"}, f"the migrations of {component} fail: {reason}"


@pytest.fixture
def database_dsns(scratch: Scratch, request: pytest.FixtureRequest) -> Iterator[DatabaseDsns]:
    _require_migrations(scratch, request)
    name, dsns = scratch.new_database()
    yield dsns
    scratch.drop(name)


@pytest.fixture(scope="module")
def module_database_dsns(scratch: Scratch, request: pytest.FixtureRequest) -> Iterator[DatabaseDsns]:
    _require_migrations(scratch, request)
    name, dsns = scratch.new_database()
    yield dsns
    scratch.drop(name)


@pytest.fixture
async def database(database_dsns: DatabaseDsns) -> AsyncIterator[Database]:
    opened = await Database.open(database_dsns.app, max_size=10)
    yield opened
    await opened.close()


@pytest.fixture
def broker_dsn(scratch: Scratch) -> Iterator[str]:
    name, dsn = scratch.new_queue()
    yield dsn
    scratch.drop(name)


@pytest.fixture(scope="session")
def pepper() -> str:
    return secrets.token_hex(32)


@pytest.fixture
def api_key(database_dsns: DatabaseDsns, pepper: str) -> ApiKey:
    def make(scopes: Iterable[Scope] = tuple(Scope), tenant: str = "acme", expires_at: datetime | None = None) -> str:
        return create_key(database_dsns.owner, pepper, tenant=tenant, scopes=scopes, expires_at=expires_at)

    return make


@pytest.fixture
def settings(database_dsns: DatabaseDsns, pepper: str, tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(
        database_url=database_dsns.app, indexer_database_url=database_dsns.indexer, pepper=pepper, shared_root=tmp_path / "shared"
    )


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[str]:
    """Runs an app on a free loopback port in this event loop; the base address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on", ws="none"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the service did not start: see the log"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(app: FastAPI, key: str | None = None) -> httpx2.AsyncClient:
            url = await stack.enter_async_context(serving(app))
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return await stack.enter_async_context(httpx2.AsyncClient(base_url=url, headers=headers, timeout=30))

        yield start
