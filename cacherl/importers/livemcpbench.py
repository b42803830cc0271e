"""LiveMCPBench runs (icip-cas/LiveMCPBench): one agent on real MCP servers, with `Question`, `Annotator Metadata` and `messages`.

The agent has two tools: `route` finds tools, `execute-tool` calls the one that its arguments name. Such a call is read as the call of that
tool, `server.tool`, so that schema, identifiers and state are the tool's own; results lose the objects that MCP wraps around their text.
A run's tools are those that `route` showed it and those that it called, as far as `tools.json` beside the log has their schemas.

All servers work on one machine's files and every run starts from the same ones: one scenario, one resource group. Judges' labels stand
beside the log in `judge_labels.json` and disagree. A run is labelled only where so many judges agree that judges who toss coins would do
so in fewer than one run of twenty: nine or ten of ten. A judge's vote is the verdict in its words; some logged numbers contradict it.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from cacherl.errors import DataError
from cacherl.importers.conversation import conversation
from cacherl.importers.mcp_result import mcp_result
from cacherl.importers.records import parse_json
from cacherl.importers.tools import tool_specs
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Outcome, Raw, Role, Trajectory

__all__ = ["LiveMCPBenchImporter"]

_DISPATCHER = "execute-tool"
_TOOLS, _LABELS = "tools.json", "judge_labels.json"
_SHOWN = re.compile(r"^- server_name: (.+)\n  tool_name: (.+)$", re.M)
_VERDICT = re.compile(r"status\W*(success|failure)\b", re.I)
_BY_CHANCE = 0.05
_MACHINE = "machine"


class LiveMCPBenchImporter:
    """Reads runs of a tool-finding agent."""

    name: ClassVar[str] = "livemcpbench"

    def __init__(self, path: Path, scenario: str | None) -> None:
        self.path, self.scenario, self.notes = path, scenario, list[str]()
        self.model = path.name.split(".json")[0].removesuffix("_trajectories")
        self.specs, bad = _companion_specs(path.parent / _TOOLS)
        labels = _companion(path.parent / _LABELS)
        self.labels: dict[str, Any] = labels if isinstance(labels, dict) else {}
        self.notes.append(f"{len(self.specs)} tools from {_TOOLS} beside it" if self.specs else f"no tools: no {_TOOLS} beside it")
        if bad:
            self.notes.append(f"without the schemas of {', '.join(bad[:5])}, which are no JSON Schemas")
        said = f"labels where the judges of {_LABELS} beside it agree beyond chance"
        self.notes.append(said if self.labels else f"no labels: no {_LABELS} beside it")

    @staticmethod
    def recognise(record: dict[str, Any]) -> str | None:
        """Why a record is in this format, or None."""
        return "records with Question and Annotator Metadata" if {"Question", "Annotator Metadata"} <= record.keys() else None

    def trajectory(self, record: dict[str, Any], line: int, repairs: list[str]) -> Trajectory:
        """The trajectory of a run; raises `DataError` for what it refuses."""
        task = record.get("task_id")
        if not isinstance(task, str) or not task:
            raise DataError("no task_id", pointer="/task_id", slug="no-id")
        run = _Run(repairs)
        messages = [run.read(message, f"/messages/{i}") for i, message in enumerate(conversation(record.get("messages"), repairs))]
        outcome, votes = _outcome(self.labels.get(task))
        return Trajectory(
            id=f"{self.model}:{task}",
            messages=messages,
            tools=[spec for name, spec in self.specs.items() if name in run.tools],
            scenario=self.scenario or "livemcpbench",
            task_id=task,
            model=self.model,
            outcome=outcome,
            raw=Raw(file=str(self.path), line=line),
            metadata={"category": str(record.get("category", "")), **votes},
        )


class _Run:
    """Puts the tool in the dispatcher's place, and the text in the result's, one message after the other."""

    def __init__(self, repairs: list[str]) -> None:
        self.repairs, self.names = repairs, dict[str | None, str]()
        self.tools: set[str] = set()
        """What `route` showed and what was called."""

    def read(self, message: Message, pointer: str) -> Message:
        """The message as the tools' own."""
        if message.tool_calls:
            return message.model_copy(update={"tool_calls": [self._dispatched(call) for call in message.tool_calls]})
        if message.role is not Role.TOOL:
            return message
        text, error = mcp_result(message.content or "", f"{pointer}/content", self.repairs)
        if message.name != _DISPATCHER:
            self.tools.update(f"{server.strip()}.{tool.strip()}" for server, tool in _SHOWN.findall(text))
        name = self.names[message.tool_call_id]
        return message.model_copy(update={"content": text, "name": name, "is_error": message.is_error if error is None else error})

    def _dispatched(self, call: MessageToolCall) -> MessageToolCall:
        told = call.function.arguments
        server, tool, arguments = told.get("server_name"), told.get("tool_name"), told.get("params")
        if call.function.name == _DISPATCHER and isinstance(server, str) and isinstance(tool, str) and isinstance(arguments, dict):
            self.repairs.append("dispatched-call")
            call = call.model_copy(update={"function": CalledFunction(name=f"{server}.{tool}", arguments=arguments)})
        self.names[call.id] = call.function.name
        self.tools.add(call.function.name)
        return call


def _outcome(judges: Any) -> tuple[Outcome, dict[str, Any]]:
    """The label that the judges agree on, and how they voted."""
    votes = list(_votes(judges.values())) if isinstance(judges, dict) else []
    if not votes:
        return Outcome(), {}
    successes = sum(votes)
    most = max(successes, len(votes) - successes)
    told = {"judges": {"success": successes, "failure": len(votes) - successes}}
    if _by_chance(most, len(votes)) >= _BY_CHANCE:
        return Outcome(source=f"livemcpbench judges: {most} of {len(votes)} are too few"), told
    return Outcome(label=successes == most, source=f"livemcpbench judges: {most} of {len(votes)}"), told


def _votes(judges: Iterable[Any]) -> Iterable[bool]:
    for judge in judges:
        text = judge.get("judge") if isinstance(judge, dict) else None
        if not isinstance(text, str):
            continue
        found = [text] if text in ("success", "failure") else _VERDICT.findall(text)
        if found:
            yield found[-1].lower() == "success"


def _by_chance(most: int, of: int) -> float:
    """How probable it is that `most` or more of `of` fair coins fall alike, either way."""
    return 2 * sum(math.comb(of, k) for k in range(most, of + 1)) / 2**of


def _companion(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


def _companion_specs(path: Path) -> tuple[dict[str, ToolSpec], list[str]]:
    """`server.tool` → its spec, of a list of `{"tools": {server: {"tools": [MCP tool]}}}`; and the tools whose schema is none."""
    specs: dict[str, ToolSpec] = {}
    bad: list[str] = []
    try:
        for offer in _companion(path) or ():
            for server, listed in offer["tools"].items():
                for tool in listed["tools"]:
                    name = f"{server}.{tool['name']}"
                    spec = _spec({**tool, "name": name})
                    if spec is None:
                        bad.append(name)
                    else:
                        specs[name] = spec
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a list of servers with their tools: {error!r}", slug="tool-schema") from None
    return specs, bad


def _spec(tool: dict[str, Any]) -> ToolSpec | None:
    try:
        (spec,) = tool_specs([tool], [])
    except DataError:
        return None
    return spec.model_copy(update={"annotations": spec.annotations.model_copy(update={"resource_group": _MACHINE})})
