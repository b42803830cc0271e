"""Updates that fail, against a stand-in for the worker's control plane: real HTTP, answers as the real one gives them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from cacherl.engine import PolicyVersion
from cacherl.errors import ConflictError, EngineError
from services.rollout.engines.sglang import SGLangEngine
from tests.engine.conftest import Weights


@dataclass
class Worker:
    """What the worker holds, and how its next updates go."""

    path: str
    label: str
    weights: str
    """Stands for the tensors in memory."""
    updates: list[str] = field(default_factory=list)
    """How the coming updates go: `takes` (the default), `refuses`, `spoils` (refuses when half is done), `sleeps` (does nothing)."""
    calls: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        body: dict[str, Any] = await request.json() if request.can_read_body else {}
        if path == "/model_info":
            return web.json_response({"model_path": self.path, "weight_version": self.label})
        if path == "/weights_checker":
            return web.json_response({"success": True, "per_engine_checksum": self.weights})
        self.calls.append(path.strip("/") + (f":{body['mode']}" if "mode" in body else ""))
        if path == "/update_weights_from_disk":
            return self.update(body["model_path"], body["weight_version"])
        return web.json_response({})

    def update(self, path: str, label: str) -> web.Response:
        how = self.updates.pop(0) if self.updates else "takes"
        if how in ("refuses", "spoils"):
            self.weights = "half" if how == "spoils" else self.weights
            return web.json_response({"success": False, "message": "no"}, status=400)
        self.path, self.label = path, label
        if how == "takes":
            self.weights = f"of {path}"
        return web.json_response({"success": True, "message": "yes"})


@pytest.fixture
async def worker(weights: Weights) -> AsyncIterator[tuple[Worker, SGLangEngine]]:
    path = str(weights.root / weights.first.path)
    worker = Worker(path, str(weights.first.policy), f"of {path}")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", worker.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = SGLangEngine(f"http://127.0.0.1:{runner.addresses[0][1]}", weights.root)
    yield worker, engine
    await engine.close()
    await runner.cleanup()


async def load_second(engine: SGLangEngine, weights: Weights) -> None:
    await engine.load(weights.second.policy, weights.second.path, weights.second.sha256)


async def test_an_update_pauses_and_goes_on(worker: tuple[Worker, SGLangEngine], weights: Weights) -> None:
    state, engine = worker
    await load_second(engine, weights)
    assert state.calls == ["pause_generation:retract", "update_weights_from_disk", "continue_generation"]
    assert (state.path, state.label) == (str(weights.root / weights.second.path), "tiny@1")
    # a version that is held is not loaded again
    await load_second(engine, weights)
    assert len(state.calls) == 3


async def test_a_refusal_that_changed_nothing_leaves_it_there(worker: tuple[Worker, SGLangEngine], weights: Weights) -> None:
    state, engine = worker
    state.updates = ["refuses"]
    with pytest.raises(EngineError, match="refused /update_weights_from_disk"):
        await load_second(engine, weights)
    assert state.calls == ["pause_generation:retract", "update_weights_from_disk", "continue_generation"]
    assert state.label == "tiny@0"


@pytest.mark.parametrize("how", ["spoils", "sleeps"])
async def test_weights_that_are_not_what_they_should_be_are_put_back(
    worker: tuple[Worker, SGLangEngine], weights: Weights, how: str
) -> None:
    state, engine = worker
    before = (state.path, state.label, state.weights)
    state.updates = [how]
    with pytest.raises(EngineError) as caught:
        await load_second(engine, weights)
    assert caught.value.problem_slug != "worker-fenced"
    assert state.calls == ["pause_generation:retract", "update_weights_from_disk", "update_weights_from_disk", "continue_generation"]
    assert (state.path, state.label, state.weights) == before


async def test_a_worker_that_cannot_be_put_back_is_fenced(worker: tuple[Worker, SGLangEngine], weights: Weights) -> None:
    state, engine = worker
    state.updates = ["spoils", "refuses"]
    with pytest.raises(EngineError) as caught:
        await load_second(engine, weights)
    assert caught.value.problem_slug == "worker-fenced"
    assert state.calls[-1] == "pause_generation:abort"
    assert "continue_generation" not in state.calls


async def test_a_version_of_other_bytes_is_refused(worker: tuple[Worker, SGLangEngine], weights: Weights) -> None:
    state, engine = worker
    await load_second(engine, weights)
    calls = len(state.calls)
    with pytest.raises(ConflictError, match="never changes"):
        await engine.load(PolicyVersion(name="tiny", version=1), weights.first.path, weights.first.sha256)
    assert len(state.calls) == calls
