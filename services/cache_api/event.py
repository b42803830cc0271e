"""What was recorded, in one form: a track is one run's calls in order, each with its answer; some become entries, the others are history.

A track is the unit of ingestion: a trajectory, a single line with its history, the calls of a live turn. From it any view computes states
(`link` chains a call to the calls before it, addressed by content), and a track survives a spool file unchanged.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic_core import from_json, to_json

from cacherl.error_class import ErrorClass, error_class
from cacherl.identifiers import mentioned
from cacherl.tier import CallOutcome, ToolResult
from cacherl.tool_call import ToolCall
from cacherl.tool_spec import ToolSpec

MAX_MENTIONS = 64
"""A state keeps no more than half of these; more is the same as too many."""
DESCRIPTIVE = frozenset({"description", "title", "examples", "$comment"})


@dataclass(slots=True)
class Event:
    """One call and its answer."""

    name: str
    arguments: dict[str, Any]
    content: Any
    is_error: bool
    outcome: CallOutcome = CallOutcome.EXACT
    step: int | None = None
    """Its number in the source where it becomes an entry; None for history."""
    line: int = 0
    schema_hash: str | None = None
    recorded_at: datetime | None = None

    @property
    def call(self) -> ToolCall:
        """The call as the state sees it."""
        return ToolCall.model_construct(id=None, name=self.name, arguments=self.arguments)

    @property
    def result(self) -> ToolResult:
        """The answer as the state sees it."""
        return ToolResult.model_construct(content=self.content, is_error=self.is_error)

    @property
    def transient(self) -> bool:
        """Whether it failed by its infrastructure: never served."""
        return self.is_error and error_class(self.result) is ErrorClass.TRANSIENT


@dataclass(slots=True)
class Track:
    """Calls of one source in order."""

    source: str
    scenario: str
    task: str | None
    events: list[Event] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """How many of the events become entries."""
        return sum(event.step is not None for event in self.events)

    def dump(self) -> bytes:
        """One line of a spool file."""
        rows = [
            [e.name, e.arguments, e.content, e.is_error, e.outcome.value, e.step, e.line, e.schema_hash, e.recorded_at] for e in self.events
        ]
        return to_json([self.source, self.scenario, self.task, rows])

    @classmethod
    def load(cls, line: bytes) -> "Track":
        """The track of a spool line."""
        source, scenario, task, rows = from_json(line)
        return cls(source, scenario, task, [_event(*row) for row in rows])


def _event(
    name: str,
    arguments: dict[str, Any],
    content: Any,
    is_error: bool,
    outcome: str,
    step: int | None,
    line: int,
    schema: str | None,
    recorded_at: str | None,
) -> Event:
    time = datetime.fromisoformat(recorded_at) if recorded_at else None
    return Event(name, arguments, content, is_error, CallOutcome(outcome), step, line, schema, time)


@dataclass(frozen=True, slots=True)
class Link:
    """A call in a history: what a state needs to know of it, whatever the view."""

    id: bytes
    parent: bytes | None
    name: str
    arguments: dict[str, Any]
    outcome: CallOutcome
    is_error: bool
    transient: bool
    mentions: tuple[str, ...]

    @property
    def result(self) -> ToolResult:
        """A stand-in for the answer that moves a state exactly as the answer did."""
        if self.transient:
            return ToolResult.model_construct(content={"status": 503}, is_error=True)
        return ToolResult.model_construct(content="failed" if self.is_error else list(self.mentions), is_error=self.is_error)

    @property
    def call(self) -> ToolCall:
        """The call as the state sees it."""
        return ToolCall.model_construct(id=None, name=self.name, arguments=self.arguments)


def link(parent: bytes | None, event: Event) -> Link:
    """The link of an event after `parent`; equal histories have equal links, in every source of a cache."""
    mentions = tuple(sorted(mentioned(event.content))[:MAX_MENTIONS])
    content = to_json([event.name, event.arguments, event.outcome.value, event.is_error, event.content])
    name = hashlib.blake2b((parent or b"") + content, digest_size=16).digest()
    return Link(name, parent, event.name, event.arguments, event.outcome, event.is_error, event.transient, mentions)


def content_hash(event: Event, scenario: str) -> bytes:
    """16 bytes over what an entry says, to tell a repetition from a contradiction."""
    return hashlib.blake2b(to_json([event.name, event.arguments, event.content, event.is_error, scenario]), digest_size=16).digest()


def schema_hash(spec: ToolSpec) -> str | None:
    """Identifies the parameters of a tool, whatever the words that describe them; None where the schema says nothing."""
    meaning = _meaning(spec.function.parameters)
    if not meaning.get("properties") and meaning.keys() <= {"type", "properties", "required", "additionalProperties"}:
        return None
    return hashlib.blake2b(to_json(_sorted(meaning)), digest_size=8).hexdigest()


def _meaning(schema: Any) -> Any:
    """A schema without its descriptive keywords; a property may be called `description`."""
    if isinstance(schema, list):
        return [_meaning(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: item for name, item in schema.items() if name not in DESCRIPTIVE}
    return {
        name: {inner: _meaning(value) for inner, value in item.items()}
        if name == "properties" and isinstance(item, dict)
        else _meaning(item)
        for name, item in kept.items()
    }


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def tool_names(tracks: Iterable[Track]) -> set[str]:
    """The tools that tracks call."""
    return {event.name for track in tracks for event in track.events}
