"""Which recordings are recorded and which are replayed: public logs, split so that each side is new to the other in one known way."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cacherl.errors import DataError
from cacherl.importers import import_file
from cacherl.trajectory import Trajectory

VARIANTS = ("base", "miss_func", "miss_param", "long_context")
OTHERS = ("livemcpbench/claude-sonnet-4_trajectories.json",)
"""NeMo-Gym's samples hold four or five rollouts each: nothing to split."""


@dataclass(frozen=True)
class Split:
    """One comparison."""

    name: str
    what: str
    record: list[Trajectory]
    replay: list[Trajectory]


def splits(data: Path) -> Iterator[Split]:
    """All of them, one at a time."""
    yield from _halves("workbench", list(import_file(data / "workbench/trajectories.jsonl")))
    tau = list(import_file(data / "tau_bench_airline/gpt-4o-airline_trajectories.json"))
    yield from _halves("tau", tau)
    last = max(t.trial or "" for t in tau)
    yield _parted("tau, trials", "the last trial replayed, the others recorded: every task is known", tau, lambda t: t.trial == last)
    variants = {name: list(import_file(data / f"bfcl_v4_multi_turn/executed_{name}.jsonl")) for name in VARIANTS}
    for name in VARIANTS:
        others = [t for other in VARIANTS if other != name for t in variants[other]]
        yield Split(f"bfcl, {name}", f"{name} replayed, the other variants recorded", others, variants[name])
    for path in OTHERS:
        found = _imported(data / path)
        if found:
            yield from _halves(path.split("/", maxsplit=1)[0], found)


def refused(data: Path) -> dict[str, str]:
    """Files that hold recorded results and that no importer of this release reads, with the reason."""
    reasons: dict[str, str] = {}
    for path in OTHERS:
        try:
            import_file(data / path)
        except DataError as error:
            reasons[path] = error.detail.partition(": ")[2]
    return reasons


def half(task: str, seed: int = 0) -> int:
    """In which half of the tasks one lies."""
    return hashlib.sha256(f"{seed}:{task}".encode()).digest()[0] % 2 if seed else int(hashlib.sha256(task.encode()).hexdigest(), 16) % 2


def _halves(name: str, found: list[Trajectory]) -> Iterator[Split]:
    for side in (0, 1):
        what = f"tasks split in half, {'second' if side == 0 else 'first'} half replayed: no task is known"
        yield _parted(f"{name}, tasks {'AB'[side]}→{'BA'[side]}", what, found, lambda t, side=side: half(t.task_id) != side)


def _parted(name: str, what: str, found: list[Trajectory], replayed: Callable[[Trajectory], bool]) -> Split:
    return Split(name, what, [t for t in found if not replayed(t)], [t for t in found if replayed(t)])


def _imported(path: Path) -> list[Trajectory]:
    try:
        return list(import_file(path))
    except DataError:
        return []
