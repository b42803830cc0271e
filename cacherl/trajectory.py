"""Messages, trajectories and tasks: what goes into the cache, into SFT and into rollouts (method §1, contracts §2)."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from cacherl.tool_call import ToolCall
from cacherl.tool_spec import ToolSpec
from cacherl.wire import Json, Wire


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class CalledFunction(Wire):
    """The function object of an OpenAI tool call. `arguments` is an object here; importers parse strings strictly."""

    name: str
    arguments: dict[str, Json]


class MessageToolCall(Wire):
    """One entry of an assistant message's `tool_calls`."""

    id: str | None = None
    type: str = "function"
    function: CalledFunction

    @property
    def call(self) -> ToolCall:
        """The call as the cache knows it."""
        return ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


class Message(Wire):
    """One message in OpenAI chat form, with the thinking of assistant messages beside their content."""

    role: Role
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[MessageToolCall] = []
    tool_call_id: str | None = None
    name: str | None = None
    """Of a tool message: which tool answered."""
    is_error: bool = False
    """Of a tool message: whether the tool failed."""

    def chat(self) -> dict[str, Any]:
        """The plain dict that chat templates read: absent fields left out."""
        out = self.model_dump(mode="json", exclude_none=True, exclude={"is_error"})
        if not self.tool_calls:
            out.pop("tool_calls", None)
        return out


class Outcome(Wire):
    """Whether a trajectory succeeded, and who says so."""

    label: bool | float | None = None
    source: str = "none"

    @property
    def accepted(self) -> bool:
        """True only where a label says that it succeeded wholly."""
        return self.label is not None and float(self.label) >= 1.0


class Raw(Wire):
    """Where a record came from."""

    file: str
    line: int


class Trajectory(Wire):
    """An imported demonstration."""

    id: str
    messages: list[Message]
    tools: list[ToolSpec] = []
    scenario: str
    """Fingerprint of the initial environment (method §3.3)."""
    task_id: str
    trial: str | None = None
    model: str | None = None
    outcome: Outcome = Outcome()
    raw: Raw | None = None
    metadata: dict[str, Json] = {}


class Fact(Wire):
    """A value that a right answer names: `value`, or one of its `aliases`."""

    value: str = Field(min_length=1)
    aliases: list[str] = []


class Reference(Wire):
    """What a right episode looks like. Only from the world, or from a trajectory whose outcome label is true (method §5)."""

    answer: str | None = None
    calls: list[ToolCall] = []
    facts: list[Fact] | None = None
    goal: dict[str, Json] | None = None
    """Opaque to everything but the live world's own check; no reward term reads it."""


class Task(Wire):
    """Something to solve with tools."""

    id: str
    messages: list[Message]
    tools: list[ToolSpec]
    scenario: str
    exclude_sources: list[str] = []
    """Trajectories whose recordings must not answer (leak guard)."""
    reference: Reference | None = None
    metadata: dict[str, Json] = {}
