"""Lines of a bulk ingestion → tracks. One bad line never spoils the others: it is refused by number, with a pointer and a reason.

Two kinds of lines, told apart by their fields: whole trajectories (one entry for each answered call), and single calls with the history
before them. Secrets are replaced here, before anything else sees the line; a reason never quotes the line.
"""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from cacherl.api.cache import EntryLine, LineProblem
from cacherl.api.common import FieldError
from cacherl.errors import DataError
from cacherl.recordings import answered_calls
from cacherl.remembered import Remembered
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import canonical
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Trajectory
from services.cache_api.event import Event, Track, schema_hash
from services.cache_api.redact import Redactor
from services.cache_api.schemas import refuse_no_schema
from services.kit.problems import pointer, reason

MAX_ERRORS_PER_LINE = 10
MAX_NAME = 500
"""Characters of what names a source, scenario, task or tool: they stand in indexes."""
KEPT_SPECS = 4_096
"""How many specs of earlier lines are kept in memory."""


async def split_lines(chunks: AsyncIterable[bytes], longest: int) -> AsyncIterator[bytes | None]:
    """The lines of a stream in bounded memory, without their ends; None for a line longer than `longest` bytes."""
    rest, skipping = bytearray(), False
    async for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for part in whole:
            line = bytes(rest) + part
            yield None if skipping or len(line) > longest else line
            rest, skipping = bytearray(), False
        if len(rest) + len(last) > longest:
            rest, skipping = bytearray(), True
        elif not skipping:
            rest += last
    if rest or skipping:
        yield None if skipping else bytes(rest)


@dataclass(slots=True)
class Reader:
    """Reads the lines of one ingestion, and remembers the tools that they define."""

    redactor: Redactor
    known: dict[str, ToolSpec]
    """Specs known beforehand; what is marked as secret there is secret in single calls too."""
    found: dict[tuple[str, str | None], ToolSpec] = field(default_factory=dict)
    """Specs that the lines bring, by name and schema."""
    _read_specs: dict[bytes, ToolSpec] = field(default_factory=dict)
    _hash: Remembered[ToolSpec, str | None] = field(default_factory=lambda: Remembered(schema_hash))

    def read(self, line: bytes, number: int) -> Track:
        """The track of a line; DataError where it cannot be one."""
        try:
            value = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise DataError(_json_fault(line, error), line=number) from None
        try:
            if isinstance(value, dict) and "messages" in value:
                track = self._trajectory(self._validated(value), number)
            else:
                track = self._entry(EntryLine.model_validate(value), number)
        except ValidationError as error:
            raise _refused(error, number) from None
        _refuse_unstorable(track, number)
        return track

    def _validated(self, value: dict[str, Any]) -> Trajectory:
        """The trajectory of a line. Nearly every line repeats the specs of the lines before it: each is read once."""
        tools = value.get("tools")
        texts = [to_json(tool) for tool in tools] if isinstance(tools, list) else []
        if not texts or not all(text in self._read_specs for text in texts):
            trajectory = Trajectory.model_validate(value)
            if len(self._read_specs) + len(texts) > KEPT_SPECS:
                self._read_specs.clear()
            self._read_specs |= dict(zip(texts, trajectory.tools, strict=True))
            return trajectory
        trajectory = Trajectory.model_validate(value | {"tools": []})
        trajectory.tools = [self._read_specs[text] for text in texts]
        return trajectory

    def _trajectory(self, trajectory: Trajectory, number: int) -> Track:
        specs = {spec.name: spec for spec in trajectory.tools}
        hashes: dict[str, str | None] = {name: self._hash(spec) for name, spec in specs.items()}
        for name, spec in specs.items():
            if (name, hashes[name]) not in self.found:
                refuse_no_schema(spec, f"/tools/{trajectory.tools.index(spec)}", number)
            self.found[name, hashes[name]] = spec
        track = Track(trajectory.id, trajectory.scenario, trajectory.task_id)
        step = 0
        for made, answer in answered_calls(trajectory.messages):
            name = made.function.name
            if specs and name not in specs:
                continue  # the run called a tool that it did not have: nothing of a tool was recorded
            spec = specs.get(name) or self.known.get(name)
            arguments = self.redactor.call(made.function.arguments, spec)
            if answer is None:
                # Nobody knows whether it happened: as a miss, so that a mutation leaves the state unknown.
                track.events.append(Event(name, arguments, "", True, CallOutcome.MISS, line=number))
                continue
            content = self.redactor.value(answer.content if answer.content is not None else "")
            track.events.append(Event(name, arguments, content, answer.is_error, step=step, line=number, schema_hash=hashes.get(name)))
            step += 1
        return track

    def _entry(self, line: EntryLine, number: int) -> Track:
        track = Track(line.source, line.scenario, line.task)
        for item in line.history:
            track.events.append(self.event(item.call.name, item.call.arguments, item.result, item.outcome, number))
        made = self.event(line.call.name, line.call.arguments, line.result, CallOutcome.EXACT, number)
        spec = self.known.get(line.call.name)
        made.step, made.recorded_at, made.schema_hash = line.step, line.recorded_at, self._hash(spec) if spec else None
        track.events.append(made)
        return track

    def event(self, name: str, arguments: dict[str, Any], result: ToolResult, outcome: CallOutcome, number: int = 0) -> Event:
        """A call and its answer, without secrets."""
        redacted = self.redactor.call(arguments, self.known.get(name))
        return Event(name, redacted, self.redactor.value(result.content), result.is_error, outcome, line=number)


def line_problem(error: DataError, number: int) -> LineProblem:
    """What is told of a refused line."""
    errors = [FieldError(detail=fault["detail"], pointer=fault.get("pointer"), line=number) for fault in error.errors]
    return LineProblem(line=number, errors=errors, detail=error.detail)


def _json_fault(line: bytes, error: ValueError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as fault:
        return f"The line is not valid UTF-8 at byte {fault.start}."
    return f"The line is not one JSON value: {error}"


def _refused(error: ValidationError, number: int) -> DataError:
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_ERRORS_PER_LINE]
    refused = DataError("The line is neither a trajectory nor a recorded call.", line=number)
    refused.errors = [{"pointer": pointer(("body", *fault["loc"])), "detail": reason(dict(fault)), "line": number} for fault in faults]
    return refused


def _refuse_unstorable(track: Track, number: int) -> None:
    """NUL in what is stored as text, lone surrogates, and arguments without a canonical form."""
    for where, text in (("/source", track.source), ("/scenario", track.scenario), ("/task", track.task or "")):
        _refuse_text(text, where, number)
    for event in track.events:
        _refuse_text(event.name, "/call/name", number)
        try:
            canonical(event.arguments)
        except DataError as error:
            raise DataError(error.detail, line=number, pointer=f"/call/arguments{error.pointer or ''}") from None


def _refuse_text(text: str, where: str, number: int) -> None:
    if len(text) > MAX_NAME:
        raise DataError(f"The text is longer than {MAX_NAME} characters.", line=number, pointer=where)
    if "\0" in text or (not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise DataError("The text holds a character that cannot be stored.", line=number, pointer=where)
