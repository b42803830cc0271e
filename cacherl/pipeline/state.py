"""What a run has done so far, in `<out>/run.json`: written by atomic rename, so that a run that was cut off goes on where it stopped."""

import secrets
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from cacherl.files import write_atomically
from cacherl.wire import Wire


class RunState(Wire):
    """Progress of one run."""

    run: str = Field(default_factory=lambda: secrets.token_hex(4))
    """A short random name; idempotency keys are made from it."""
    plan: str
    """The plan's digest."""
    started: float = Field(default_factory=time.time)
    values: dict[str, Any] = {}
    """Ids and counts by step."""
    seconds: dict[str, float] = {}
    """Duration by step."""
    finished: bool = False

    def save(self, out: Path) -> None:
        """Writes it whole or not at all."""
        write_atomically(out / "run.json", self.model_dump_json(indent=1).encode())


def load(out: Path, plan: str) -> tuple[RunState, str]:
    """(state, what was decided): resumed where an unfinished run of the same plan lies in `out`, else a new one."""
    path = out / "run.json"
    if not path.exists():
        return RunState(plan=plan), "a new run"
    try:
        state = RunState.model_validate_json(path.read_bytes())
    except ValueError:
        return RunState(plan=plan), "a new run (run.json here cannot be read)"
    if state.finished:
        return RunState(plan=plan), "a new run (the one here is finished)"
    if state.plan != plan:
        return RunState(plan=plan), "a new run (the one here has another plan)"
    return state, f"resuming run {state.run}: {len(state.values)} steps are done"
