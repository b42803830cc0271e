"""Importing a file as the tests of importers do: counts add up on the way, ids are unique, and every result has its call."""

from pathlib import Path

import pytest

from cacherl.importers import ImportResult, import_file
from cacherl.trajectory import Role, Trajectory

SAMPLES = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def public(path: str) -> Path:
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"NOT CHECKED: the public data {path} is not beside the repository")
    return found


def taken(path: Path, **more) -> tuple[list[Trajectory], ImportResult]:
    result = import_file(path, **more)
    trajectories = []
    for trajectory in result:
        trajectories.append(trajectory)
        counts = result.counts
        assert counts.records == counts.imported + counts.repaired + counts.refused
    assert len(trajectories) == result.counts.imported + result.counts.repaired
    for trajectory in trajectories:
        sound(trajectory)
    assert len({t.id for t in trajectories}) == len(trajectories)
    return trajectories, result


def sound(trajectory: Trajectory) -> None:
    """Call ids are unique, and every result names an earlier call of its own."""
    open_calls: dict[str | None, str] = {}
    used: set[str | None] = set()
    for message in trajectory.messages:
        for call in message.tool_calls:
            assert call.id not in used
            used.add(call.id)
            open_calls[call.id] = call.function.name
        if message.role is Role.TOOL:
            assert open_calls.pop(message.tool_call_id) == message.name


def by_id(trajectories: list[Trajectory]) -> dict[str, Trajectory]:
    return {t.id: t for t in trajectories}
