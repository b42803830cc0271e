"""The rollout service over real HTTP and Postgres, with a scripted engine and recordings in memory behind its two seams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from cacherl.api.rollout import PolicyPublish, RolloutCreate
from cacherl.client import RolloutClient
from cacherl.engine import Engine, PolicyVersion
from cacherl.episode import Episode
from cacherl.rendering import Renderer
from cacherl.testing import InMemoryToolCache, ScriptedEngine, call_text, task, tiny_tokenizer, tool
from cacherl.tool_cache import CachePins, ToolCache
from cacherl.trajectory import Task
from services.kit.settings import ServiceSettings
from services.rollout.app import create
from services.rollout.engines import EngineConfig
from services.rollout.settings import RolloutSettings

READ = tool("read", "id", mutating=False)
TINY = PolicyVersion(name="tiny", version=0)
SHA = "0" * 64
ANSWER = "<think>\nI know.\n</think>\n\nIt is alpha."
SCRIPT = (call_text("read", {"id": "a"}), ANSWER)


@dataclass
class Caches:
    """Recordings in memory; remembers whose token asked."""

    cache: InMemoryToolCache
    tokens: list[str] = field(default_factory=list)
    refuses: Exception | None = None

    async def pins(self, token: str, request: RolloutCreate) -> CachePins:
        if self.refuses:
            raise self.refuses
        return self.cache.pins.model_copy(
            update={name: value for name in ("revision", "view", "as_of") if (value := getattr(request, name)) is not None}
        )

    @asynccontextmanager
    async def open(self, token: str, rollout: str, request: RolloutCreate, pins: CachePins) -> AsyncIterator[ToolCache]:
        self.tokens.append(token)
        if self.refuses:
            raise self.refuses
        yield self.cache


@dataclass
class World:
    """One service process and what stands behind it."""

    app: FastAPI
    engine: ScriptedEngine
    caches: Caches
    client: httpx2.AsyncClient
    sdk: RolloutClient


Start = Callable[..., Awaitable[World]]


@pytest.fixture
def rollout_settings(settings: ServiceSettings) -> RolloutSettings:
    tiny_tokenizer(settings.shared_root / "weights" / "tiny" / "0")
    return RolloutSettings(
        **settings.model_dump(),
        engines=[EngineConfig(kind="embedded", url="http://127.0.0.1:1")],
        lease_s=1.0,
        beat_s=0.1,
        poll_s=0.05,
        retry_s=0.05,
    )


@pytest.fixture
def renderer(rollout_settings: RolloutSettings) -> Renderer:
    return Renderer.from_directory(rollout_settings.weights_root / "tiny" / "0")


@pytest.fixture
async def start(rollout_settings: RolloutSettings, renderer: Renderer, serve: Any, api_key: Any) -> AsyncIterator[Start]:
    sdks: list[RolloutClient] = []

    async def begin(script: Any = SCRIPT, *, key: str | None = None, **options: Any) -> World:
        engine = options.pop("engine", None) or ScriptedEngine(renderer, script, policies=[], **options.pop("scripted", {}))
        caches = options.pop("caches", None) or Caches(InMemoryToolCache.from_triples([("read", {"id": "a"}, "alpha")], tools=[READ]))

        def open_engine(_: EngineConfig) -> Engine:
            return engine

        app = create(rollout_settings.model_copy(update=options), open_engine=open_engine, caches=caches)
        token = key or api_key()
        client = await serve(app, token)
        sdks.append(RolloutClient(str(client.base_url), token))
        return World(app, engine, caches, client, sdks[-1])

    yield begin
    for sdk in sdks:
        await sdk.close()


@pytest.fixture
async def world(start: Start) -> World:
    started = await start()
    await publish(started)
    return started


async def publish(world: World) -> None:
    await world.sdk.publish(PolicyPublish(name="tiny", version=0, path="tiny/0", sha256=SHA))


def tasks(count: int = 1) -> list[Task]:
    return [task(f"What is {number}?", id=f"t{number}", tools=[READ]) for number in range(count)]


def wanted(count: int = 1, **fields: Any) -> RolloutCreate:
    return RolloutCreate(**({"cache": "memory", "policy": TINY, "tasks": tasks(count), "group_size": 2} | fields))


async def over(world: World, rollout: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            found = await world.sdk.get(rollout)
            if found.state.final:
                return found
            await asyncio.sleep(0.02)


async def received(world: World, rollout: str, after: str | None = None) -> list[Episode]:
    async with asyncio.timeout(20):
        return [episode async for episode in world.sdk.episodes(rollout, after=after)]
