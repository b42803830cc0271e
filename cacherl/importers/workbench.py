"""WorkBench runs (olly-styles/WorkBench) in chat form: one row a run, with `task_id`, `domain`, `model`, `toolset` and `correct`.

Every run starts from one database, so there is one scenario; `correct` is the benchmark's own check of the database afterwards. Tool
schemas stand beside the file, in `tools_from_nemo_gym.json`, with `_` where the logs have the namespace's `.`; names become the logs'.
All tools are given to every row, though rows with toolset `domains` were offered fewer.
"""

from pathlib import Path
from typing import Any, ClassVar

from cacherl.importers.conversation import conversation
from cacherl.importers.tools import companion_tools
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Outcome, Raw, Trajectory

__all__ = ["WorkBenchImporter"]

_COMPANION = "tools_from_nemo_gym.json"
_NAMESPACES = ("analytics", "calendar", "company_directory", "customer_relationship_manager", "email", "project_management")


class WorkBenchImporter:
    """Reads runs on one office database."""

    name: ClassVar[str] = "workbench"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        beside = path.parent / _COMPANION
        self.specs = tuple(map(_renamed, companion_tools(beside))) if beside.is_file() else ()
        self.notes.append(f"{len(self.specs)} tools from {_COMPANION} beside it" if self.specs else f"no tools: no {_COMPANION} beside it")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        wanted = {"messages", "task_id", "domain", "toolset", "correct"}
        return "runs with messages, domain, toolset and correct" if wanted <= record.keys() else None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a run; raises `DataError` for what it refuses."""
        messages = conversation(record.get("messages"), repairs)
        task, model, toolset = (str(record.get(name)) for name in ("task_id", "model", "toolset"))
        return Trajectory(
            id=f"{task}:{model}:{toolset}",
            messages=messages,
            tools=list(self.specs),
            scenario=self.scenario or "workbench",
            task_id=task,
            trial=toolset,
            model=model,
            outcome=Outcome(label=record.get("correct") is True, source="workbench correct"),
            raw=Raw(file=str(self.path), line=line),
            metadata={"domain": record.get("domain"), "toolset": toolset},
        )


def _renamed(spec: ToolSpec) -> ToolSpec:
    for namespace in _NAMESPACES:
        if spec.name.startswith(namespace + "_"):
            name = f"{namespace}.{spec.name.removeprefix(namespace + '_')}"
            return spec.model_copy(update={"function": spec.function.model_copy(update={"name": name})})
    return spec
