"""Which weights the engines are told to hold."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from cacherl.api.rollout import Policy
from cacherl.engine import PolicyVersion
from cacherl.errors import ConflictError, EngineError
from cacherl.jobs import JobState
from cacherl.rendering import Renderer
from cacherl.testing import ScriptedEngine
from services.rollout.settings import RolloutSettings
from tests.rollout.conftest import TINY, Start, World, publish, wanted


async def test_a_policy_is_published_to_the_engines(world: World):
    assert (await world.engine.info()).policies == [TINY]
    assert [(policy.name, policy.version, policy.state) for policy in await _policies(world.client)] == [("tiny", 0, JobState.SUCCEEDED)]
    await publish(world)


async def _policies(client: httpx2.AsyncClient) -> list[Any]:
    return [Policy.model_validate(item) for item in (await client.get("/v1/policies")).json()["items"]]


async def test_the_same_version_with_other_bytes_is_refused(world: World):
    answer = await world.client.post("/v1/policies", json={"name": "tiny", "version": 0, "path": "tiny/0", "sha256": "1" * 64})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:cacherl:problem:policy-version-taken")


@pytest.mark.parametrize("path", ["../../etc", "/etc", ".", "tiny/../.."])
async def test_a_policy_lies_below_the_weights_root(world: World, path: str):
    answer = await world.client.post("/v1/policies", json={"name": "evil", "version": 0, "path": path, "sha256": "1" * 64})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:cacherl:problem:path-outside-root")


class RefusingEngine(ScriptedEngine):
    """Takes no weights."""

    error: Callable[[], Exception]

    async def load(self, policy: PolicyVersion, path: str, sha256: str) -> None:
        raise type(self).error()


@pytest.mark.parametrize("error", [lambda: ConflictError("other bytes"), lambda: EngineError("away")])
async def test_weights_that_no_engine_takes_are_not_published(
    start: Start, renderer: Renderer, error: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.rollout.runner.PUBLISH_ATTEMPTS", 2)
    monkeypatch.setattr("services.rollout.runner.PUBLISH_RETRY_S", 0.01)
    RefusingEngine.error = staticmethod(error)
    world = await start(engine=RefusingEngine(renderer, ["x"], policies=[]))
    with pytest.raises(EngineError, match="refused"):
        await publish(world)
    with pytest.raises(ConflictError):
        await world.sdk.create(wanted())


def test_engines_are_named_by_address_or_in_full(settings: Any, monkeypatch: pytest.MonkeyPatch):
    named = [{"kind": "sglang", "url": "http://gpu:30000", "weights_root": "/w"}, "http://127.0.0.1:9"]
    monkeypatch.setenv("CACHERL_ENGINES", json.dumps(named))
    found = RolloutSettings(**settings.model_dump()).engines
    assert [(engine.kind.value, engine.url) for engine in found] == [("sglang", "http://gpu:30000"), ("embedded", "http://127.0.0.1:9")]
