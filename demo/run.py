"""`make demo`: the world as a process of its own, its data, and the main job on them."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from cacherl.errors import ServiceError, UsageError
from cacherl.main_job import execute
from cacherl.pipeline.plan import RunPlan
from cacherl.report.model import Report
from demo.config import SIZES, DemoSettings
from demo.generate import generate

SERVER = "town"
START_SECONDS = 30.0


def run_demo(out: Path, *, size: str = "standard", seed: int = 0) -> Report:
    """Generates the data, starts the world, runs the plan, writes the report. Errors: those of `main_job.execute`."""
    if size not in SIZES:
        raise UsageError(f"there is no size {size!r}; choose {', '.join(SIZES)}")
    settings = SIZES[size]
    data = out.resolve() / "data"
    manifest = generate(data, settings.data)
    with world() as url:

        async def count() -> int:
            async with httpx2.AsyncClient(base_url=url) as client:
                return int((await client.get("/counter")).raise_for_status().json()["calls"])

        return execute(
            plan(settings, data, seed),
            out,
            live_servers={SERVER: url},
            live_count=count,
            extra_data={"flaws": describe(manifest), "size": size},
        )


def plan(settings: DemoSettings, data: Path, seed: int) -> RunPlan:
    """The demo's plan: everything that decides the result, fixed beforehand."""
    return RunPlan(
        name="demo",
        logs=[data / "train.trajectories.jsonl"],
        format="cacherl",
        cache_logs=[data / "cache.trajectories.jsonl"],
        tasks=data / "train.tasks.jsonl",
        validation_tasks=data / "validation.tasks.jsonl",
        validation_logs=[data / "validation.trajectories.jsonl"],
        live_server=SERVER,
        seed=seed,
        **settings.recipe.model_dump(),
    )


@contextlib.contextmanager
def world() -> Iterator[str]:
    """The world's process on a free loopback port; gives its URL. Errors: `ServiceError` when it does not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.world", "--port", str(port), "--with-parent"],
        stdin=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError("the demo's world did not start")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx2.TransportError:
        return False


def describe(manifest: dict[str, Any]) -> str:
    """The shares of flaws that were really drawn."""
    return json.dumps(manifest["train"]["flaws"], sort_keys=True)
