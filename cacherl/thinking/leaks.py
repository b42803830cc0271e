"""No hindsight (method §2): a trace may not say a literal that first appears later in the trajectory.

Later literals are the scalars of later results and arguments, and in later texts the words that look like identifiers, numbers, quoted
phrases and short whole messages. What stands anywhere before the turn, in the turn's own call or answer, or in the tools' schemas is
known and may be said. Single characters and function words are no evidence of anything.
"""

import re
from collections.abc import Iterator
from itertools import chain

import pydantic_core

from cacherl.identifiers import looks_like_identifier
from cacherl.literals import as_literal, fields, number_forms, parsed, stands_in
from cacherl.trajectory import Message, Role, Trajectory

__all__ = ["Leaks"]

Forms = tuple[str, ...]

_WORD = re.compile(r"[^\s,;!?\"'`()\[\]{}<>=|]+")
_QUOTED = re.compile(r"\"([^\"\n]{2,80})\"|'([^'\n]{2,80})'|`([^`\n]{2,80})`|\*\*([^*\n]{2,80})\*\*")
_NUMBER = re.compile(r"-?\d+(?:[.,:]\d+)*%?")
_EMPTY_WORD = re.compile(
    r"an?|the|and|or|but|not|no|yes|of|to|in|on|at|by|for|from|with|as|is|are|was|were|be|been|its?|this|that|these|those|t?here|s?he|they|"
    r"we|you|i|me|my|your|our|their|his|her|them|us|if|then|so|do|does|did|done|has|have|had|will|would|can|could|may|might|must|should|all|"
    r"any|some|one|two|none|null|true|false|ok|okay|get|set|new|user|tool|call|result|answer|default|choice|message|system|words?|empty"
)
"""Function words, and the words of talk about tools itself."""


class Leaks:
    """The future of one trajectory, asked turn by turn."""

    def __init__(self, trajectory: Trajectory) -> None:
        self._messages = trajectory.messages
        self._tools = trajectory.tools
        self._literals = [frozenset(_of(message)) for message in trajectory.messages]
        self._known: dict[int, str] = {}

    def first(self, trace: str, at: int) -> str | None:
        """A literal in the trace that the turn at index `at` could not know; None where there is none."""
        folded = trace.casefold()
        for literal, forms in chain.from_iterable(self._literals[at + 1 :]):
            if _says(folded, forms) and not _says(self._known_at(at), forms):
                return literal
        return None

    def _known_at(self, at: int) -> str:
        """Everything that stands before or in the turn, casefolded."""
        if at not in self._known:
            self._known = {at: "\n".join([*map(_whole, self._messages[: at + 1]), *self._schemas()]).casefold()}
        return self._known[at]

    def _schemas(self) -> Iterator[str]:
        for spec in self._tools:
            yield f"{spec.name} {spec.function.description}"
            yield pydantic_core.to_json(spec.function.parameters).decode()


def _says(folded: str, forms: Forms) -> bool:
    return any(form in folded and stands_in(form, folded) for form in forms)


def _whole(message: Message) -> str:
    """A message's text with the scalars of its calls and of a JSON result spelt out."""
    parts = [message.content or "", message.reasoning_content or ""]
    for call in message.tool_calls:
        parts.append(call.function.name)
        parts += [as_literal(value) or str(value) for _, value in fields(call.function.arguments)]
    if message.role is Role.TOOL:
        parts += [f"{path[-1] if path else ''} {as_literal(value) or value}" for path, value in fields(parsed(message.content or ""))]
    return "\n".join(parts)


def _of(message: Message) -> Iterator[tuple[str, Forms]]:
    """The literals of a message, with their casefolded writings."""
    found: list[str | None] = []
    for call in message.tool_calls:
        found += [as_literal(value) for _, value in fields(call.function.arguments)]
    value = parsed(message.content or "") if message.role is Role.TOOL else message.content or ""
    if isinstance(value, str):
        found += _in_text(value)
    else:
        for _, scalar in fields(value):
            found.append(as_literal(scalar))
            if isinstance(scalar, str) and as_literal(scalar) is None:
                found += _in_text(scalar)
    for literal in found:
        if literal and len(literal) > 1 and not _EMPTY_WORD.fullmatch(literal.casefold()):
            yield literal, tuple(form.casefold() for form in (literal, *number_forms(literal)))


def _in_text(text: str) -> list[str]:
    words = (word.rstrip(".:").lstrip("$€£#") for word in _WORD.findall(text))
    found = [word for word in words if looks_like_identifier(word) or _NUMBER.fullmatch(word)]
    found += ["".join(groups).strip() for groups in _QUOTED.findall(text)]
    if text and len(text.split()) <= 4:
        found.append(text.strip().rstrip(".!?"))
    return found
