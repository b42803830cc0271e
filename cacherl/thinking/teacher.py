"""The seam of those who write reasoning: questions in, thoughts out, many at once.

A question holds the history up to a turn and the call or answer that was chosen: never its result, nor anything later.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pydantic_core

from cacherl.thinking.classify import TurnKind
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Trajectory

__all__ = ["Question", "Teacher", "Thought", "keys"]


@dataclass(frozen=True)
class Question:
    """Why this, now?"""

    kind: TurnKind
    history: Sequence[Message]
    """Everything before the turn."""
    chosen: Message
    """The turn, as it was."""
    tools: Sequence[ToolSpec]
    attempt: int = 0
    """How often a trace was refused already."""


@dataclass(frozen=True)
class Thought:
    """A trace and what it cost."""

    text: str
    """Empty where the teacher has nothing to say."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


class Teacher(Protocol):
    """Writes reasoning. Errors: `cacherl.errors.JudgeError` when its endpoint is away."""

    identity: str
    """Name, model and prompt version: part of a trace's content hash."""
    free: bool
    """Whether asking again costs nothing, so that traces need not be kept."""

    async def think(self, questions: Sequence[Question]) -> list[Thought]:
        """One thought per question, in order."""
        ...


def keys(trajectory: Trajectory, turns: Sequence[int], identity: str) -> list[str]:
    """Content hash of each turn's question: the teacher, the tools, the history and the turn. `turns` ascend."""
    digest = hashlib.sha256(pydantic_core.to_json([identity, trajectory.tools]))
    out, wanted = [], set(turns)
    for i, message in enumerate(trajectory.messages):
        digest.update(pydantic_core.to_json(message, exclude_none=True) + b"\n")
        if i in wanted:
            out.append(digest.hexdigest())
    return out
