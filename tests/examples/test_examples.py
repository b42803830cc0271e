"""The examples run as their heads say and show what they claim."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2

from cacherl.verify import verify_file
from services.cache_api.app import create
from services.cache_api.settings import CacheSettings
from services.kit.settings import ServiceSettings

ROOT = Path(__file__).parents[2]


def example(name: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-W", "error", f"examples/{name}", *map(str, arguments)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CACHERL_")}
    return subprocess.run(command, cwd=ROOT, env=kept | environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def test_a_loop_in_memory_and_the_scores_of_its_episodes(tmp_path: Path):
    path = tmp_path / "shop.episodes.jsonl"
    played = example("loop_in_memory.py", "--out", path)
    assert [line.split()[0] for line in played.splitlines() if line.startswith("  ")] == [
        "exact", "exact", "answer", "exact", "miss", "answer", "answer",
    ]  # fmt: skip
    report = verify_file(path)
    assert (report.episodes, report.violations) == (3, [])

    scored = example("score_offline.py", path).splitlines()
    assert scored[0] == "robust, estimator attributed"
    right, missed, wrong = (float(line.split()[-1]) for line in scored[2:])
    assert right > missed > wrong
    assert example("score_offline.py", path, "--preset", "paper").startswith("paper, estimator std")


async def test_recording_and_looking_up(
    settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]
):
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    address = {"CACHERL_KEY": key, "CACHERL_CACHE_API_URL": str(http.base_url).rstrip("/")}
    said = await asyncio.to_thread(example, "record_and_lookup.py", **address)
    answers = [line.strip() for line in said.splitlines() if line.startswith(("  exact", "  miss"))]
    assert [line.split()[0] for line in answers] == ["exact", "exact", "exact", "miss", "miss"]
    assert "100 EUR" in answers[0], "before any transfer"
    assert "70 EUR" in answers[2], "after the recorded transfer"
    assert "not exact: the state is unknown" in said


async def test_an_mcp_client(settings: ServiceSettings, serve: Callable[..., Awaitable[httpx2.AsyncClient]], api_key: Callable[..., str]):
    key = api_key()
    http = await serve(create(CacheSettings(**settings.model_dump())), key)
    address = {"CACHERL_KEY": key, "CACHERL_CACHE_API_URL": str(http.base_url).rstrip("/"), "PYTHONPATH": str(ROOT)}
    assert "3 calls stored" in await asyncio.to_thread(example, "mcp_client.py", "--record", **address)
    said = (await asyncio.to_thread(example, "mcp_client.py", **address)).splitlines()
    assert [line.split(":")[0] for line in said[:2]] == ["parcel.redirect", "parcel.track"]
    assert [line.split()[0] for line in said[2:]] == ["exact", "exact", "exact", "miss", "miss"]
    assert "Oslo" in said[2]
    assert "Bergen" in said[4]
