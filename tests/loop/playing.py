"""Plays one task with a scripted engine and recordings in memory."""

from collections.abc import Sequence
from typing import Any

from cacherl.agent_loop import CacheAgentLoop, LoopConfig
from cacherl.episode import Episode
from cacherl.rendering import Renderer
from cacherl.testing import POLICY, InMemoryToolCache, Said, Script, ScriptedEngine, call_text, task, tool

READ, WRITE = tool("read", "id", mutating=False), tool("write", "id", mutating=True)
THINK = "<think>\nI look.\n</think>\n\n"


def cache(**results: str) -> InMemoryToolCache:
    triples = [("read", {"id": key}, value) for key, value in ({"a": "alpha", "b": "beta"} | results).items()]
    return InMemoryToolCache.from_triples([*triples, ("write", {"id": "a"}, "written")], tools=[READ, WRITE])


async def play(
    renderer: Renderer,
    script: Script | Sequence[Said],
    *,
    size: int = 1,
    tools: InMemoryToolCache | None = None,
    engine: dict[str, Any] | None = None,
    **config: Any,
) -> tuple[list[Episode], ScriptedEngine, InMemoryToolCache]:
    scripted = ScriptedEngine(renderer, script, **(engine or {}))
    found = tools or cache()
    loop = CacheAgentLoop(renderer, scripted, found, LoopConfig(POLICY, **config))
    episodes = [episode async for episode in loop.run([task(tools=[READ, WRITE])], size)]
    return episodes, scripted, found


def read(key: str) -> str:
    return call_text("read", {"id": key})
