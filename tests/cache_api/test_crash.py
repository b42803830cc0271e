"""kill -9 in the middle of ingestion: what was acknowledged is there, what was not left nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx2
import pytest

from cacherl.client.cache import CacheClient
from services.cache_api.settings import CacheSettings
from services.local.scratch import DatabaseDsns
from tests.cache_api.conftest import TOOLS, ndjson, trajectory

Start = Callable[[], tuple[subprocess.Popen[bytes], str]]


@pytest.fixture
def start(cache_settings: CacheSettings, database_dsns: DatabaseDsns, pepper: str) -> Iterator[Start]:
    running: list[subprocess.Popen[bytes]] = []

    def run() -> tuple[subprocess.Popen[bytes], str]:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        variables = {"CACHERL_DATABASE_URL": database_dsns.app, "CACHERL_PEPPER": pepper, "CACHERL_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "services.kit.serve", "cache_api"]
        process = subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.DEVNULL)
        running.append(process)
        return process, f"http://127.0.0.1:{port}"

    yield run
    for process in running:
        process.kill()
        process.wait()


async def ready(url: str) -> None:
    async with httpx2.AsyncClient() as http:
        for _ in range(1200):
            with suppress(httpx2.TransportError):
                if (await http.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    raise AssertionError("the service does not start")


async def test_kill_nine_loses_no_acknowledged_batch(start: Start, api_key: Callable[..., str]):
    process, url = start()
    await ready(url)
    headers = {"Authorization": f"Bearer {api_key()}"}
    acknowledged: dict[str, int] = {}
    enough = asyncio.Event()
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as http:
        assert (await http.post("/v1/caches", json={"name": "town", "tools": TOOLS})).status_code == 201

        async def write(writer: int) -> None:
            for number in range(1000):
                batch = f"{writer}-{number}"
                lines = [trajectory(f"{batch}-{n}", [("get_weather", {"city": f"City {n}"}, "ok")] * 3) for n in range(10)]
                answer = await http.post("/v1/caches/town/entries", content=ndjson(*lines), params={"batch": batch})
                acknowledged[batch] = answer.json()["revision"]
                if len(acknowledged) >= 12:
                    enough.set()

        writers = [asyncio.create_task(write(writer)) for writer in range(3)]
        await asyncio.wait_for(enough.wait(), 60)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        await asyncio.gather(*writers, return_exceptions=True)

    _, url = start()
    await ready(url)
    async with CacheClient(url, headers["Authorization"].removeprefix("Bearer ")) as client:
        cache = await client.get("town")
        # At most one batch a writer was committed without its answer having arrived.
        committed = cache.entries // 30
        assert cache.entries == committed * 30
        assert len(acknowledged) <= committed <= len(acknowledged) + 3
        assert cache.revision == committed
        for batch, revision in acknowledged.items():
            again = await client.ingest("town", [], batch=batch)
            assert (again.stored, again.revision) == (30, revision)
