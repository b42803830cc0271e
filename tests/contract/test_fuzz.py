"""The services beside the cache under requests made from their OpenAPI documents: no server error, every refusal a problem document."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import pytest
from fastapi import FastAPI
from schemathesis.schemas import APIOperation

from services.kit.settings import ServiceSettings
from services.reward.app import create as create_reward
from services.reward.settings import RewardSettings
from services.rollout.app import create as create_rollout
from services.rollout.settings import RolloutSettings
from services.trainer.app import create as create_trainer
from services.trainer.settings import TrainerSettings
from tests.fuzzing import fuzz

EXAMPLES = 4
NOWHERE = "http://127.0.0.1:9"
Serve = Callable[..., Awaitable[httpx2.AsyncClient]]


def reward(settings: ServiceSettings, broker_dsn: str) -> FastAPI:
    return create_reward(RewardSettings(**settings.model_dump() | {"rollout_url": NOWHERE}))


def rollout(settings: ServiceSettings, broker_dsn: str) -> FastAPI:
    return create_rollout(RolloutSettings(**settings.model_dump() | {"cache_api_url": NOWHERE}, engines=[]))


def trainer(settings: ServiceSettings, broker_dsn: str) -> FastAPI:
    return create_trainer(TrainerSettings(**settings.model_dump() | {"broker_dsn": broker_dsn, "reap_every_s": 3600.0}))


def none(_: APIOperation) -> bool:
    return False


# The service runs in this process and draws random numbers while the requests are made: that is no fault of theirs.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@pytest.mark.parametrize("make", [reward, rollout, trainer])
async def test_no_request_that_the_document_can_make_is_a_server_error(
    make: Callable[[ServiceSettings, str], FastAPI],
    settings: ServiceSettings,
    broker_dsn: str,
    serve: Serve,
    api_key: Callable[..., str],
):
    key = api_key()
    http = await serve(make(settings, broker_dsn), key)
    headers = {"Authorization": f"Bearer {key}"}
    found = await asyncio.to_thread(fuzz, str(http.base_url), headers, {}, examples=EXAMPLES, skip=none, away=True)
    assert not found.faults, "\n\n".join(found.faults[:20])
    assert found.requests >= 4 * EXAMPLES
