"""What kind of assistant turn it is, and so how it is treated (method §2).

Only a text that comes with a call can be analysis by its wording: it either talks to the user ("I'll check that for you") or about the
next step ("I need the id first, so …"). A text without a call is for the user, unless it says that it is a thought. General English words
decide; no tool's or benchmark's wording is known here.
"""

import re
from collections.abc import Sequence
from enum import StrEnum

from cacherl.trajectory import Message, Role

__all__ = ["TurnKind", "classify", "thought_in"]


class TurnKind(StrEnum):
    """One assistant turn."""

    ANALYTICAL = "analytical"
    """Its text already reasons: moved verbatim into the reasoning; no teacher."""
    USER_FACING = "user_facing"
    """It speaks to the user, with or without a call: a teacher writes the reasoning."""
    BARE_CALL = "bare_call"
    """A call without a text: a teacher writes the reasoning."""
    FINAL = "final"
    """The last answer: reasoning is always written."""


_THOUGHT = re.compile(r"\s*(?:thoughts?|reasoning|analysis|plan|let me think|step \d+)\b\s*[:,.]", re.I)
_TAGGED = re.compile(r"\s*<think>(.*?)</think>\s*", re.S)
_REASONS = re.compile(
    r"\b(?:because|since|therefore|thus|hence|so (?:i|we|that|the|it)\b|in order to"
    r"|(?:i|we) (?:now |first |then |still |also )*(?:need|must|should|have) |(?:first|next|now|then)[, ]+(?:i|we|let|get|find|look)"
    r"|this means|which means|given that|according to|the next step|let's|thought:)",
    re.I,
)
_SPEAKS = re.compile(
    r"\b(?:you|your|yours|you're|please|sure|certainly|of course|thanks|thank|sorry|apolog\w+|happy to|great news|here (?:is|are)|"
    r"would you|hello|hi|dear)\b|\?\s*$",
    re.I,
)


def classify(messages: Sequence[Message], at: int) -> TurnKind:
    """The kind of the assistant message at this index."""
    message = messages[at]
    text = (message.content or "").strip()
    if message.tool_calls:
        if not text:
            return TurnKind.BARE_CALL
        if _THOUGHT.match(text) or thought_in(text) or not _SPEAKS.search(text):
            return TurnKind.ANALYTICAL
        return TurnKind.ANALYTICAL if _reasons_more(text) else TurnKind.USER_FACING
    if not any(m.role is Role.ASSISTANT for m in messages[at + 1 :]):
        return TurnKind.FINAL
    return TurnKind.ANALYTICAL if _THOUGHT.match(text) else TurnKind.USER_FACING


def thought_in(text: str) -> tuple[str, str] | None:
    """(thought, rest) of a text that begins with a tagged thought."""
    found = _TAGGED.match(text)
    return (found[1].strip("\n"), text[found.end() :]) if found else None


def _reasons_more(text: str) -> bool:
    return len(_REASONS.findall(text)) > len(_SPEAKS.findall(text))
