import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.episode import Episode
from cacherl.episodes_file import EpisodesWriter, episode_line, read_episodes, task_lines
from cacherl.errors import DataError, UsageError
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, ScriptedEngine, call_text, task, tool
from cacherl.trajectory import Task
from cacherl.verify import verify_file

TOOLS = [tool("read", "id", mutating=False), tool("other")]
TASKS = [task("one", tools=TOOLS, id="t1"), task("two", tools=TOOLS, id="t2", answer="x")]
NAMES = ["a.episodes.jsonl", "a.episodes.jsonl.zst"]


@pytest.fixture(scope="module")
def episodes(renderer: Renderer) -> list[Episode]:
    cache = InMemoryToolCache.from_triples([("read", {"id": "a"}, "alpha")], tools=TOOLS)
    engine = ScriptedEngine(renderer, [call_text("read", {"id": "a"}), "done"])

    async def play() -> list[Episode]:
        return [episode async for episode in CacheAgentLoop(renderer, engine, cache, LoopConfig(POLICY)).run(TASKS, 2)]

    return asyncio.run(play())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(tmp_path: Path, name: str, episodes: list[Episode]):
    path = tmp_path / name
    with EpisodesWriter(path) as writer:
        writer.write(episodes[:2], TASKS)
        writer.write(episodes[2:], TASKS)
    found, tasks = read_episodes(path)
    assert found == episodes
    assert tasks == {episode.task: TASKS[episode.group] for episode in episodes}
    report = verify_file(path)
    assert (report.episodes, report.violations) == (4, [])
    assert json.loads(report.model_dump_json()) == {"schema": "cacherl.verify/1", "episodes": 4, "violations": []}


@pytest.mark.parametrize("name", NAMES)
def test_files_concatenate_and_ids_count_once(tmp_path: Path, name: str, episodes: list[Episode]):
    path = tmp_path / name
    with EpisodesWriter(path) as writer:
        writer.write(episodes, TASKS)
    path.write_bytes(path.read_bytes() * 2)
    assert read_episodes(path)[0] == episodes
    assert verify_file(path).episodes == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [20, 40, 300])
def test_a_cut_end_is_ignored_and_removed_before_more_is_written(tmp_path: Path, name: str, cut: int, episodes: list[Episode]):
    path = tmp_path / name
    with EpisodesWriter(path) as writer:
        writer.write(episodes[:1], TASKS)
        whole = path.stat().st_size
        writer.write(episodes[1:2], TASKS)
    path.write_bytes(path.read_bytes()[: max(whole + 1, path.stat().st_size - cut)])
    assert read_episodes(path)[0] == episodes[:1]
    assert verify_file(path).violations == []
    with EpisodesWriter(path) as writer:
        writer.write(episodes[2:], TASKS)
    assert read_episodes(path)[0] == [episodes[0], *episodes[2:]]


def test_header_lines_stand_once_and_name_tools_by_hash():
    written: set[str] = set()
    lines = [json.loads(line) for one in TASKS for line in task_lines(one, written)]
    assert [line["schema"] for line in lines] == ["cacherl.tool/1", "cacherl.tool/1", "cacherl.task/1", "cacherl.task/1"]
    assert lines[2]["task"]["tools"] == [lines[0]["hash"], lines[1]["hash"]]
    assert list(task_lines(TASKS[0], written)) == []


def test_a_task_without_its_tools_is_refused(tmp_path: Path):
    path = tmp_path / NAMES[0]
    path.write_bytes(b"".join(task_lines(TASKS[0], set())).split(b"\n", 2)[2])
    with pytest.raises(DataError, match="line 1"):
        read_episodes(path)


Body = dict[str, Any]
BREAKS: dict[str, Callable[[Body], object]] = {
    "hash": lambda body: body.update(seed=9),
    "no-hash": lambda body: body.update(hash=""),
    "one-logprob-per-sampled-id": lambda body: body["turns"][0]["logprobs"].pop(),
    "logprob-not-positive": lambda body: body["turns"][0]["logprobs"].append(0.5),
    "nothing-after-last-sampled": lambda body: body["ids"].append(5),
    "spans-ordered": lambda body: body["turns"][1].update(start=body["turns"][0]["start"]),
    "prompt-inside": lambda body: body.update(prompt_length=0),
    "call-inside-turn": lambda body: body["turns"][0]["calls"][0].update(span=[0, 3]),
    "ids-not-negative": lambda body: body["ids"].__setitem__(0, -1),
    "versions-ordered": lambda body: body["turns"][0].update(versions=[{"start": 5000, "version": 1}]),
    "readable": lambda body: body.pop("ids"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_every_broken_invariant_is_named(tmp_path: Path, how: str, episodes: list[Episode]):
    body = json.loads(episode_line(episodes[0]))
    BREAKS[how](body)
    path = tmp_path / NAMES[0]
    path.write_bytes(json.dumps(body).encode() + b"\n" + episode_line(episodes[1]))
    report = verify_file(path)
    assert how.removeprefix("no-") in {violation.invariant for violation in report.violations}
    assert report.episodes == (1 if how == "readable" else 2)


def test_two_contents_under_one_id_are_seen(tmp_path: Path, episodes: list[Episode]):
    path = tmp_path / NAMES[0]
    other = episodes[1].model_copy(update={"id": episodes[0].id})
    path.write_bytes(episode_line(episodes[0]) + episode_line(other.sealed()))
    assert [violation.invariant for violation in verify_file(path).violations] == ["one-content-per-id"]


def test_a_task_that_was_changed_is_seen(tmp_path: Path):
    path = tmp_path / NAMES[0]
    path.write_bytes(b"".join(task_lines(Task.model_validate(TASKS[0].model_dump()), set())).replace(b'"one"', b'"uno"'))
    assert [violation.invariant for violation in verify_file(path).violations] == ["task-hash"]


def test_a_missing_file_is_wrong_usage(tmp_path: Path):
    with pytest.raises(UsageError):
        verify_file(tmp_path / "nothing")
