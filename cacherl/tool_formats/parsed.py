"""A sampled turn taken apart, and what a tool format has to offer."""

from dataclasses import dataclass, field
from typing import Protocol

from cacherl.tool_call import ToolCall


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One call as it stands in a turn's text, [start, end); `call` is None where it is malformed, and `error` says why."""

    start: int
    end: int
    call: ToolCall | None
    error: str | None = None
    closed: bool = True
    """False where the block has no end or no beginning."""


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A sampled turn taken apart."""

    thinking: str | None
    """The policy's own thinking; None where it wrote none."""
    thinking_closed: bool
    """False where a thinking block was opened and never closed: then all of the turn is thinking, and `content` holds its raw text."""
    content: str
    """What stands outside of thinking and well-formed calls, raw: a leaked think tag or a malformed call stays visible."""
    calls: list[ParsedCall] = field(default_factory=list)


class ToolFormat(Protocol):
    """What rendering and the agent loop ask of a format."""

    name: str
    markers: tuple[str, ...]
    """Strings that only the template or the policy may write as control tokens."""
    after_thinking: str
    """What ends a thinking block; text after it is encoded on its own, so that an injected block gives the same ids."""
    empty_thinking: str
    """The block that stands for "no thinking"."""

    def parse(self, text: str, *, thinking_injected: bool = False) -> ParsedTurn:
        """Takes a turn's text (without its end-of-turn token) apart; `thinking_injected` where the block was closed before it."""
        ...
