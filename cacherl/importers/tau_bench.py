"""τ-bench result files (sierra-research/tau-bench): a JSON array of runs with `traj`, `reward`, `task_id`, `trial`.

Every run of a domain starts from one database, so the scenario is the domain. The label is `reward == 1`, the benchmark's own check of
the final database and outputs. Tool schemas stand beside the file, in `tools.json`; without it the trajectories have none.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from cacherl.errors import DataError
from cacherl.importers.conversation import conversation
from cacherl.importers.tools import companion_tools
from cacherl.trajectory import Outcome, Raw, Trajectory

__all__ = ["TauBenchImporter"]

_COMPANION = "tools.json"
_DOMAIN = re.compile(r"^#\s*(\w+) agent policy", re.I | re.M)


class TauBenchImporter:
    """Reads runs of a user simulator against a tool-calling agent."""

    name: ClassVar[str] = "tau_bench"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        self.stem = path.name.split(".json")[0]
        beside = path.parent / _COMPANION
        self.tools = companion_tools(beside) if beside.is_file() else ()
        self.notes.append(f"{len(self.tools)} tools from {_COMPANION} beside it" if self.tools else f"no tools: no {_COMPANION} beside it")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        return "runs with traj, reward and task_id" if {"traj", "reward", "task_id"} <= record.keys() else None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a run; raises `DataError` for what it refuses."""
        messages = conversation(record.get("traj"), repairs)
        reward = record.get("reward")
        if not isinstance(reward, int | float):
            raise DataError("`reward` is not a number", pointer="/reward", slug="no-outcome")
        domain = self._domain(messages[0].content or "")
        task, trial = record.get("task_id"), record.get("trial", 0)
        return Trajectory(
            id=f"{self.stem}:{task}:{trial}",
            messages=messages,
            tools=list(self.tools),
            scenario=self.scenario or f"tau_bench/{domain}",
            task_id=f"{domain}-{task}",
            trial=str(trial),
            model=self.stem.split(f"-{domain}")[0] if f"-{domain}" in self.stem else None,
            outcome=Outcome(label=abs(reward - 1) < 1e-6, source="tau_bench reward"),
            raw=Raw(file=str(self.path), line=line),
        )

    def _domain(self, policy: str) -> str:
        """The domain that the policy's title names, else the file's name."""
        found = _DOMAIN.search(policy)
        return found[1].lower() if found else self.stem
