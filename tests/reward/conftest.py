"""The reward service over real HTTP on a real database."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from services.kit.auth import Scope
from services.kit.settings import ServiceSettings
from services.local.scratch import DatabaseDsns
from services.reward.app import create
from services.reward.settings import LlmJudgeSettings, RewardSettings

Start = Callable[..., Awaitable[httpx2.AsyncClient]]


@pytest.fixture
def database_dsns(module_database_dsns: DatabaseDsns) -> DatabaseDsns:
    """One database a module: every test has a tenant of its own."""
    return module_database_dsns


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    return request.node.name


@pytest.fixture
def reward_app(settings: ServiceSettings) -> Callable[..., FastAPI]:
    def make(judges: dict[str, LlmJudgeSettings] | None = None, **more: Any) -> FastAPI:
        return create(RewardSettings(**(settings.model_dump() | {"judges": judges or {}} | more)))

    return make


@pytest.fixture
def reward(serve: Start, reward_app: Callable[..., FastAPI], api_key: Callable[..., str], tenant: str) -> Start:
    """`client = await reward(judges=…)`: the service, and a client with a key of the scope `reward:score`."""

    async def start(**options: Any) -> httpx2.AsyncClient:
        return await serve(reward_app(**options), api_key([Scope.REWARD_SCORE], tenant=tenant))

    return start
