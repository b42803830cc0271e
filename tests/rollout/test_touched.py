"""The episodes that a cache entry touched: found over the SDK, written by the command as a file, scored again from it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson

from cacherl.episodes_file import read_episodes
from tests.rollout.conftest import World, received, wanted


async def test_they_come_page_by_page_and_the_file_can_be_scored(world: World, tmp_path: Path):
    episodes = await received(world, (await world.sdk.create(wanted(3))).id)
    entry = episodes[0].calls[0].entry
    assert entry is not None
    file = tmp_path / "touched.episodes.jsonl"
    lines = [line async for line in world.sdk.touched(entry.id, page=2)]
    file.write_bytes(b"\n".join(lines) + b"\n")
    found, tasks = read_episodes(file)
    assert [episode.id for episode in found] == [episode.id for episode in episodes]
    assert len(tasks) == 3
    assert [line async for line in world.sdk.touched("ent_other")] == []
    unknown = await world.client.get("/v1/episodes", params={"entry": entry.id, "after": "eps_nothing"})
    assert unknown.json()["type"] == "urn:cacherl:problem:no-such-episode"

    key = world.client.headers["Authorization"].removeprefix("Bearer ")
    variables = {"CACHERL_KEY": key, "CACHERL_ROLLOUT_URL": str(world.client.base_url).rstrip("/")}
    command = [sys.executable, "-c", "from cacherl.cli import main; main()"]

    def run(*arguments: str) -> bytes:
        return subprocess.run([*command, *arguments], env=os.environ | variables, check=True, capture_output=True).stdout

    again = tmp_path / "again.episodes.jsonl"
    said = orjson.loads(await asyncio.to_thread(run, "cache", "touched", entry.id, "--out", str(again), "--json"))
    assert [item["episode"] for item in said["episodes"]] == [episode.id for episode in episodes]
    scored = orjson.loads(await asyncio.to_thread(run, "score", str(again), "--json"))
    assert len(scored["scores"]) == len(episodes)
