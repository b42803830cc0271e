"""The cache service on a throw-away Postgres, in this process on a loopback port: what the product runs, without the rest of the system."""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
import uvicorn

from cacherl.client import CacheClient
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.auth import Scope
from services.kit.keys import create_key
from services.local import scratch
from services.local.scratch import DatabaseDsns

START_S = 300.0


@asynccontextmanager
async def service() -> AsyncIterator[CacheClient]:
    """A client of a service that ends with this block."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with _database() as (folder, dsns):
        pepper = secrets.token_hex(32)
        key = create_key(dsns.owner, pepper, tenant="bench", scopes=tuple(Scope), expires_at=None)
        app = create(CacheSettings(database_url=dsns.app, indexer_database_url=dsns.indexer, pepper=pepper, shared_root=folder / "shared"))
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="on", ws="none"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            assert not running.done(), "the service did not start"
            await asyncio.sleep(0.01)
        try:
            async with CacheClient(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", key) as client:
                yield client
        finally:
            server.should_exit = True
            await running


@contextmanager
def _database() -> Iterator[tuple[Path, DatabaseDsns]]:
    folder = Path(tempfile.mkdtemp(prefix="cacherl-bench-"))
    folder.chmod(0o711)  # the database's account passes through it
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "services.local.scratch", str(folder), str(os.getpid())], stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_S
        while not (folder / scratch.FILE).exists():
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, "the database did not start"
            time.sleep(0.05)
        yield folder, scratch.read(folder).new_database()[1]
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
