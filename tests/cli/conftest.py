"""The command line, run in this process (`cli`) or as its users run it (`command`), and files for it."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.cli.app import app
from cacherl.episode import Episode
from cacherl.episodes_file import EpisodesWriter
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, ScriptedEngine, call_text, task, tiny_tokenizer, tool

COMMAND = Path(sys.executable).with_name("cacherl")
PLACE = tool("find_order", "order", mutating=False)
TASKS = [
    task(f"Where is order {order}?", tools=[PLACE], id=order, reference={"answer": f"It is in {place}.", "facts": [{"value": place}]})
    for order, place in (("A37", "Oslo"), ("B12", "Rome"))
]


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output; anything beside it fails."""
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line of an error: nothing on standard output, no traceback."""
        assert self.out == ""
        lines = self.err.splitlines()
        assert lines, "an error says something"
        assert "Traceback" not in self.err
        assert all(line.startswith("  ") for line in lines[1:]), self.err
        return lines[0]


Cli = Callable[..., Ran]
Command = Callable[..., Awaitable[Ran]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CACHERL_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object, **environment: str) -> Ran:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """The installed command as a process of its own, in a folder that is no checkout."""

    async def run(*arguments: object, **environment: str) -> Ran:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CACHERL_") and name != "PYTHONPATH"}
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *map(str, arguments),
            cwd=tmp_path,
            env=kept | environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """Four episodes of two tasks that all look for order A37: the first task's answers are right, the second one's wrong."""
    renderer = Renderer.from_directory(tiny_tokenizer(tmp_path_factory.mktemp("policy")))
    cache = InMemoryToolCache.from_triples([("find_order", {"order": "A37"}, {"place": "Oslo"})], tools=[PLACE])
    engine = ScriptedEngine(renderer, [call_text("find_order", {"order": "A37"}), "It is in Oslo."])

    async def play() -> list[Episode]:
        return [episode async for episode in CacheAgentLoop(renderer, engine, cache, LoopConfig(POLICY)).run(TASKS, 2)]

    return asyncio.run(play())


@pytest.fixture
def episodes_file(tmp_path: Path, played: list[Episode]) -> Path:
    path = tmp_path / "sound.episodes.jsonl"
    with EpisodesWriter(path) as writer:
        writer.write(played, TASKS)
    return path


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Three records of chat logs: one sound, one repaired, one refused."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [_record("A37", "Oslo"), _record("B12", "Rome") | {"id": "r1"}, {}]))
    return path


def _record(order: str, place: str) -> dict[str, Any]:
    arguments: Any = json.dumps({"order": order}) if order == "A37" else {"order": order}  # an object is repaired
    called = {"id": "c1", "type": "function", "function": {"name": "find_order", "arguments": arguments}}
    return {
        "id": "r1" if order == "A37" else "r2",
        "reward": 1.0,
        "scenario": "shop",
        "tools": [PLACE.model_dump(mode="json", include={"type", "function"})],
        "messages": [
            {"role": "user", "content": f"Where is {order}?"},
            {"role": "assistant", "content": None, "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "c1", "content": json.dumps({"place": place})},
            {"role": "assistant", "content": f"In {place}."},
        ],
    }
