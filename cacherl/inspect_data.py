"""What is in logs, before anything is trained on them: `cacherl.inspect/1` of contracts §7.

Per file: the format and why, and counts that add up. Over all files: each tool's calls, errors, keys (scenario, tool, canonical arguments)
and conflicting keys (those with more than one recorded result: the state differed, or the tool is stochastic). Coverage says how well these
recordings would answer one another: `repeated_share` is the share of answered calls whose key another trajectory holds too. A file that
cannot be recognised stands in the report with one refused record and does not hide the others; where none can, that is an error.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pydantic_core
from pydantic import Field

from cacherl.annotate import infer, inferred_from_spec
from cacherl.errors import DataError
from cacherl.importers import import_file
from cacherl.literals import parsed
from cacherl.tool_call import canonical, exact_key
from cacherl.tool_spec import Annotations, ToolSpec
from cacherl.trajectory import Message, Role, Trajectory
from cacherl.wire import Json, Wire

__all__ = ["InspectReport", "inspect"]

SCHEMA = "cacherl.inspect/1"
UNKNOWN = "unknown"


class FileReport(Wire):
    """One file; `records = imported + repaired + refused`."""

    path: str
    format: str
    why: str
    records: int
    imported: int
    repaired: int
    refused: int
    reasons: dict[str, int]


class Totals(Wire):
    """All files together."""

    records: int
    imported: int
    repaired: int
    refused: int
    trajectories: int
    calls: int
    tools: int
    errors: int


class ToolReport(Wire):
    """One tool that was called or offered."""

    name: str
    calls: int
    errors: int
    keys: int
    conflicting_keys: int
    annotations: Annotations


class CoverageReport(Wire):
    """How well these recordings would answer one another."""

    tasks: int
    scenarios: int
    answered_calls: int
    keys: int
    repeated_share: float
    """Share of the answered calls whose key stands in another trajectory too."""
    trajectories_with_calls: int
    labelled: int
    accepted: int
    tools_without_schema: int


class InspectReport(Wire):
    """The whole answer."""

    schema_: Literal["cacherl.inspect/1"] = Field(default=SCHEMA, alias="schema")
    files: list[FileReport]
    totals: Totals
    tools: list[ToolReport]
    coverage: CoverageReport

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}


@dataclass
class _Key:
    """What is known of one key."""

    tool: str
    results: set[bytes] = field(default_factory=set)
    first: str = ""
    """Its first trajectory."""
    calls: int = 0
    shared: bool = False


@dataclass
class _Tool:
    calls: int = 0
    errors: int = 0


class _Survey:
    """What is kept of trajectories: digests and counts, never a trajectory."""

    def __init__(self) -> None:
        self.keys: dict[bytes, _Key] = {}
        self.tools: dict[str, _Tool] = {}
        self.specs: dict[str, ToolSpec] = {}
        self.tasks: set[str] = set()
        self.scenarios: set[str] = set()
        self.trajectories = self.with_calls = self.labelled = self.accepted = 0

    def add(self, trajectory: Trajectory) -> None:
        self.trajectories += 1
        self.tasks.add(trajectory.task_id)
        self.scenarios.add(trajectory.scenario)
        self.labelled += trajectory.outcome.label is not None
        self.accepted += trajectory.outcome.accepted
        specs = {spec.name: spec for spec in trajectory.tools}
        self.specs.update((name, spec) for name, spec in specs.items() if name not in self.specs)
        answers = {m.tool_call_id: m for m in trajectory.messages if m.role is Role.TOOL}
        called = False
        for call in (call for message in trajectory.messages for call in message.tool_calls):
            called = True
            tool = self.tools.setdefault(call.function.name, _Tool())
            tool.calls += 1
            answer = answers.get(call.id)
            if answer is not None:
                tool.errors += answer.is_error
                self._answered(trajectory, call.function.name, call.function.arguments, specs.get(call.function.name), answer)
        self.with_calls += called

    def _answered(self, trajectory: Trajectory, name: str, arguments: dict[str, Json], spec: ToolSpec | None, answer: Message) -> None:
        digest = hashlib.sha256(trajectory.scenario.encode() + b"\0" + exact_key(name, arguments, spec)).digest()[:16]
        key = self.keys.setdefault(digest, _Key(name, first=trajectory.id))
        key.calls += 1
        key.shared = key.shared or key.first != trajectory.id
        key.results.add(_result_digest(answer))


def inspect(paths: Iterable[str | Path]) -> InspectReport:
    """Reads every file once. Raises `DataError` for a file that is not there, and where no file can be recognised."""
    survey = _Survey()
    files = [_file(Path(path), survey) for path in paths]
    if files and all(file.format == UNKNOWN for file in files):
        raise DataError("; ".join(file.why for file in files), slug="unknown-format")
    return InspectReport(files=files, totals=_totals(files, survey), tools=_tools(survey), coverage=_coverage(survey))


def _file(path: Path, survey: _Survey) -> FileReport:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        result = import_file(path)
    except DataError as error:
        return FileReport(
            path=str(path),
            format=UNKNOWN,
            why=error.detail,
            records=1,
            imported=0,
            repaired=0,
            refused=1,
            reasons={error.problem_slug: 1},
        )
    counts, why = result.counts, result.why
    try:
        for trajectory in result:
            survey.add(trajectory)
    except DataError as error:
        counts.records, counts.refused = counts.records + 1, counts.refused + 1
        counts.reasons[error.problem_slug] += 1
        why = f"{why}; broken off: {error.detail}"
    return FileReport(
        path=str(path),
        format=result.format,
        why=why,
        records=counts.records,
        imported=counts.imported,
        repaired=counts.repaired,
        refused=counts.refused,
        reasons=dict(sorted(counts.reasons.items())),
    )


def _totals(files: Sequence[FileReport], survey: _Survey) -> Totals:
    return Totals(
        records=sum(f.records for f in files),
        imported=sum(f.imported for f in files),
        repaired=sum(f.repaired for f in files),
        refused=sum(f.refused for f in files),
        trajectories=survey.trajectories,
        calls=sum(t.calls for t in survey.tools.values()),
        tools=len(survey.tools.keys() | survey.specs.keys()),
        errors=sum(t.errors for t in survey.tools.values()),
    )


def _tools(survey: _Survey) -> list[ToolReport]:
    """Most called first."""
    names = survey.tools.keys() | survey.specs.keys()
    unknown = {name: Annotations() for name in names - survey.specs.keys()}
    annotations = infer([], unknown) | {name: inferred_from_spec(spec) for name, spec in survey.specs.items()}
    keys: dict[str, list[_Key]] = {}
    for key in survey.keys.values():
        keys.setdefault(key.tool, []).append(key)
    reports = []
    for name in sorted(names, key=lambda n: (-survey.tools.get(n, _Tool()).calls, n)):
        tool, own = survey.tools.get(name, _Tool()), keys.get(name, [])
        conflicts = sum(len(key.results) > 1 for key in own)
        found = annotations[name]
        reports.append(
            ToolReport(name=name, calls=tool.calls, errors=tool.errors, keys=len(own), conflicting_keys=conflicts, annotations=found)
        )
    return reports


def _coverage(survey: _Survey) -> CoverageReport:
    answered = sum(key.calls for key in survey.keys.values())
    repeated = sum(key.calls for key in survey.keys.values() if key.shared)
    return CoverageReport(
        tasks=len(survey.tasks),
        scenarios=len(survey.scenarios),
        answered_calls=answered,
        keys=len(survey.keys),
        repeated_share=repeated / answered if answered else 0.0,
        trajectories_with_calls=survey.with_calls,
        labelled=survey.labelled,
        accepted=survey.accepted,
        tools_without_schema=len(survey.tools.keys() - survey.specs.keys()),
    )


def _result_digest(answer: Message) -> bytes:
    """Equal results have equal digests, whatever the spelling of their JSON."""
    value = parsed(answer.content or "")
    try:
        return hashlib.sha256(pydantic_core.to_json([answer.is_error, canonical(value)])).digest()[:16]
    except DataError:  # nested too deeply to compare: as text
        return hashlib.sha256((answer.content or "").encode()).digest()[:16]
