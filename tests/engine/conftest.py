"""Engines under test: real processes over real HTTP. One embedded engine a worker; one SGLang server a run (tests that use it share an
xdist group, so one worker has them all). Where SGLang's environment cannot be built or started its tests fail, they do not skip."""

import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest
import torch

from cacherl.engine import Engine, PolicyVersion
from cacherl.rendering import Renderer
from cacherl.testing import ScriptedEngine, tiny_tokenizer
from services.engine.sglang import server
from services.rollout.engines import EngineConfig, EngineKind, open_engine
from tests.engine.tiny import END_IDS, Reference, write_policy

CONTEXT = 1024
ROWS = 16


@dataclass(frozen=True)
class Published:
    """A policy version on disk."""

    policy: PolicyVersion
    path: str
    sha256: str
    reference: Reference


@dataclass(frozen=True)
class Weights:
    """The shared weights root and two versions of one policy in it."""

    root: Path
    first: Published
    second: Published

    def publish(self, name: str, version: int, seed: int, **shape: object) -> Published:
        return publish(self.root, name, version, seed, **shape)


@dataclass(frozen=True)
class Bench:
    """An engine that holds `weights.first`, through its client."""

    kind: str
    url: str
    engine: Engine
    weights: Weights
    end_ids: frozenset[int] = frozenset(END_IDS)


def publish(root: Path, name: str, version: int, seed: int, **shape: object) -> Published:
    path = f"{name}/{version}"
    sha256 = write_policy(root / path, seed, **shape)  # pyright: ignore[reportArgumentType]
    return Published(PolicyVersion(name=name, version=version), path, sha256, Reference(root / path))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Makes `xdist_group` hold: pytest-xdist 3.8 writes the group into an attribute that pytest 9.2 does not read any more."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        mark = item.get_closest_marker("xdist_group")
        if mark is not None and not item.nodeid.endswith(f"@{mark.args[0]}"):
            item._id = type(item._id).parse(f"{item.nodeid}@{mark.args[0]}")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    root = tmp_path_factory.mktemp("weights")
    return Weights(root, publish(root, "tiny", 0, seed=0), publish(root, "tiny", 1, seed=1))


@contextmanager
def embedded_process(root: Path, *options: str) -> Iterator[str]:
    """The embedded engine as a process; yields its address."""
    command = [sys.executable, "-m", "services.engine.embedded", "--port", "0", "--weights-root", str(root), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), "the embedded engine did not start: see its standard error"
        yield url
    finally:
        process.terminate()
        assert process.wait(20) == 0
        process.stdout.close()


@pytest.fixture(scope="session")
def embedded_url(weights: Weights) -> Iterator[str]:
    with embedded_process(weights.root, "--rows", str(ROWS), "--context", str(CONTEXT)) as url:
        yield url


@pytest.fixture(scope="session")
def sglang_url(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filelock.FileLock(Path(sys.prefix) / "sglang-setup.lock"):
        server.build()
    log = tmp_path_factory.mktemp("sglang") / "log"
    with server.running(weights.root / weights.first.path, str(weights.first.policy), log, CONTEXT) as url:
        yield url


async def opened(kind: EngineKind, url: str, weights: Weights) -> AsyncIterator[Bench]:
    engine = open_engine(EngineConfig(kind=kind, url=url, weights_root=weights.root))
    await engine.load(weights.first.policy, weights.first.path, weights.first.sha256)
    yield Bench(kind, url, engine, weights)
    await engine.close()


SGLANG = pytest.param(EngineKind.SGLANG, marks=[pytest.mark.sglang, pytest.mark.xdist_group("sglang")])


@pytest.fixture(params=[EngineKind.EMBEDDED, SGLANG])
async def bench(request: pytest.FixtureRequest, weights: Weights) -> AsyncIterator[Bench]:
    """Each engine in turn."""
    url = request.getfixturevalue(f"{request.param.value}_url")
    async for item in opened(request.param, url, weights):
        yield item


@pytest.fixture(params=["scripted", EngineKind.EMBEDDED, SGLANG])
async def any_bench(request: pytest.FixtureRequest, weights: Weights, tmp_path: Path) -> AsyncIterator[Bench]:
    """Each engine in turn, also the one of `cacherl.testing`, which has no weights: for what needs none."""
    if request.param != "scripted":
        url = request.getfixturevalue(f"{request.param.value}_url")
        async for item in opened(request.param, url, weights):
            yield item
        return
    renderer = Renderer.from_directory(tiny_tokenizer(tmp_path / "tokenizer"))
    # every other episode ends its turn after five ids, the rest go on
    engine = ScriptedEngine(
        renderer,
        lambda turn, _: [20 + n for n in range(5)] + ([renderer.end_id] if turn.episode[-1] in "02468" else list(range(30, 200))),
        policies=[weights.first.policy],
        context_length=CONTEXT,
    )
    yield Bench("scripted", "", engine, weights, renderer.end_of_turn)


@pytest.fixture
async def embedded(embedded_url: str, weights: Weights) -> AsyncIterator[Bench]:
    async for item in opened(EngineKind.EMBEDDED, embedded_url, weights):
        yield item


@pytest.fixture
async def sglang(sglang_url: str, weights: Weights) -> AsyncIterator[Bench]:
    async for item in opened(EngineKind.SGLANG, sglang_url, weights):
        yield item


Ids = Callable[[int], list[int]]


@pytest.fixture
def ids(request: pytest.FixtureRequest) -> Ids:
    """`ids(n)`: the next n ids of the test's own stream, always the same, none of them special."""
    generator = torch.Generator().manual_seed(zlib.crc32(request.node.name.encode()))
    return lambda count: torch.randint(8, 256, (count,), generator=generator).tolist()
