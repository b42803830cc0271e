"""BFCL multi-turn conversations executed on the benchmark's simulators (`executed_*.jsonl`).

The calls are the benchmark's ground truth and the results are real, so the label is true. The variants `base`, `miss_func` and
`miss_param` of one number start from one state, `long_context` from another: the scenario is the number and whether it is long context.
Function documents beside the file, in `multi_turn_func_doc/`, say which simulator a tool belongs to: its resource group.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

from cacherl.errors import DataError
from cacherl.importers.conversation import conversation
from cacherl.importers.records import records
from cacherl.importers.tools import tool_specs
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Outcome, Raw, Trajectory

__all__ = ["BfclImporter"]

_COMPANION = "multi_turn_func_doc"
_ID = re.compile(r"multi_turn_(\w+)_(\d+)")


class BfclImporter:
    """Reads executed ground truth."""

    name: ClassVar[str] = "bfcl"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        self.groups = _groups(path.parent / _COMPANION)
        said = f"resource groups of {len(self.groups)} tools from {_COMPANION}/ beside it"
        self.notes.append(said if self.groups else f"one resource group: no {_COMPANION}/ beside it")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        named = isinstance(record.get("id"), str) and _ID.fullmatch(record["id"])
        return "multi_turn conversations with involved_classes" if named and {"messages", "involved_classes"} <= record.keys() else None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a conversation; raises `DataError` for what it refuses."""
        found = _ID.fullmatch(str(record.get("id")))
        if found is None:
            raise DataError(f"no multi_turn id: {record.get('id')!r}", pointer="/id", slug="no-id")
        variant, number = found[1], found[2]
        scenario = f"bfcl/{number}" + ("/long_context" if variant == "long_context" else "")
        return Trajectory(
            id=found[0],
            messages=conversation(record.get("messages"), repairs),
            tools=[self._in_group(spec) for spec in tool_specs(record.get("tools"), repairs)],
            scenario=self.scenario or scenario,
            task_id=found[0],
            trial=variant,
            model="ground_truth",
            outcome=Outcome(label=True, source="bfcl ground truth"),
            raw=Raw(file=str(self.path), line=line),
        )

    def _in_group(self, spec: ToolSpec) -> ToolSpec:
        group = self.groups.get(spec.name)
        if group is None:
            return spec
        return spec.model_copy(update={"annotations": spec.annotations.model_copy(update={"resource_group": group})})


def _groups(folder: Path) -> dict[str, str]:
    """Tool name → the simulator that documents it. A name that two of them document has no group of its own."""
    groups: dict[str, str] = {}
    shared: set[str] = set()
    for file in sorted(folder.glob("*.json")):
        for record in records(file):
            name = record.value.get("name") if isinstance(record.value, dict) else None
            if isinstance(name, str):
                if name in groups:
                    shared.add(name)
                groups[name] = file.stem
    return {name: group for name, group in groups.items() if name not in shared}
