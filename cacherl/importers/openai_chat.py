"""Chat logs with OpenAI `messages` and optional `tools`, one conversation a record (fine-tuning files, gateways' logs).

Ids, tasks, models, scenarios and outcomes are read where common fields hold them. Without a task id the task is the digest of the
messages before the assistant's first, so runs of one prompt form one task. Without a scenario all records of the file are taken to start
from one environment, named after the file: say otherwise with `scenario` fields or the `scenario` option.
"""

from pathlib import Path
from typing import Any, ClassVar

from cacherl.importers.conversation import conversation
from cacherl.importers.fields import first_name, prompt_digest
from cacherl.importers.tools import companion_tools, tool_specs
from cacherl.trajectory import Outcome, Raw, Trajectory

__all__ = ["OpenAIChatImporter"]

_IDS = ("id", "trajectory_id", "conversation_id", "uuid", "session_id", "trace_id")
_TASKS = ("task_id", "task", "question_id", "prompt_id")
_TRIALS = ("trial", "sample", "attempt", "rollout")
_LABELS = ("outcome", "reward", "success", "correct", "passed", "label", "score")
_COMPANION = "tools.json"


class OpenAIChatImporter:
    """Reads rows with `messages`."""

    name: ClassVar[str] = "openai_chat"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        self.stem = path.name.split(".")[0]
        beside = path.parent / _COMPANION
        self.companion = companion_tools(beside) if beside.is_file() else ()
        if self.companion:
            self.notes.append(f"{len(self.companion)} tools from {_COMPANION} beside it, for records without their own")
        if scenario is None:
            self.notes.append(f"scenario {self.stem!r} where a record names none")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        messages = record.get("messages")
        if isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages):
            tools = " and tools" if record.get("tools") else ""
            return f"records with OpenAI chat messages{tools}"
        return None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a record; raises `DataError` for what it refuses."""
        messages = conversation(record.get("messages"), repairs)
        return Trajectory(
            id=first_name(record, *_IDS) or f"{self.stem}:{line}",
            messages=messages,
            tools=list(tool_specs(record.get("tools"), repairs) or self.companion),
            scenario=self.scenario or first_name(record, "scenario") or self.stem,
            task_id=first_name(record, *_TASKS) or prompt_digest(messages),
            trial=first_name(record, *_TRIALS),
            model=first_name(record, "model"),
            outcome=_outcome(record),
            raw=Raw(file=str(self.path), line=line),
        )


def _outcome(record: dict[str, Any]) -> Outcome:
    """The first field that states an outcome as a truth value or a number."""
    for name in _LABELS:
        value = record.get(name)
        value = value.get("label") if isinstance(value, dict) else value
        if isinstance(value, bool | int | float):
            return Outcome(label=value if isinstance(value, bool) else float(value), source=name)
    return Outcome()
