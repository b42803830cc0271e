"""The built-in teacher: it says where each value of a call came from, and which result fields hold an answer. It needs no LLM.

One short sentence in a small, regular language, so that a tiny model can learn it:

    The name Elena Knight is from the user.
    The order_id A37 is from the result of orders.list_orders (item desk).
    The amount 40 is from the result of accounts.balance; the target EUR is from the user.
    The answer is in the result of orders.order_status (status packed, depot Oslo).

Where a value comes out of a list, the bracket names the field of the same record that the user, or an earlier value, asked for. Sources
in this order: the user, the first earlier result or call that holds the value, the system message, the schema (default or choices), the
user's words where at least half of the value's stand in what the user said, else "new": written or worked out by the caller. It looks at
nothing but the history and the chosen turn, so it cannot leak.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from cacherl.literals import as_literal, fields, number_forms, parsed, stands_in
from cacherl.thinking.classify import TurnKind
from cacherl.thinking.teacher import Question, Thought
from cacherl.trajectory import Message, MessageToolCall, Role

__all__ = ["ProvenanceTeacher"]

MAX_CLAUSES = 6
MAX_ANSWER_FIELDS = 4
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class _Seen:
    """One scalar of an earlier result."""

    tool: str
    call: str | None
    """Id of the call that it answers."""
    path: Path
    literal: str
    record: dict[str, Any] | None
    """The object that it stands in, where that is one of a list."""


class ProvenanceTeacher:
    """Explains calls and answers by the origin of their values."""

    identity = "provenance/1"
    free = True

    async def think(self, questions: Sequence[Question]) -> list[Thought]:
        """One sentence per question."""
        return [Thought(_explained(question)) for question in questions]


def _explained(question: Question) -> str:
    past = _Past(question.history)
    if question.chosen.tool_calls:
        return _sentence(_clauses(question, past))
    if question.kind is TurnKind.USER_FACING:
        asks = (question.chosen.content or "").rstrip().endswith("?")
        return "The user must be asked." if asks else "The user must be told."
    return _sentence([_answer(question.chosen.content or "", past)])


def _sentence(clauses: list[str]) -> str:
    text = "; ".join(clauses)
    return text[:1].upper() + text[1:] + "."


def _clauses(question: Question, past: "_Past") -> list[str]:
    out: list[str] = []
    for call in question.chosen.tool_calls:
        schema = next((spec.function.parameters for spec in question.tools if spec.name == call.function.name), {})
        for clause in _of_call(call, schema, past):
            if clause not in out:
                out.append(clause)
    return out[:MAX_CLAUSES] or ["the call needs no arguments"]


def _of_call(call: MessageToolCall, schema: dict[str, Any], past: "_Past") -> Iterator[str]:
    """One clause per argument; the values of a list that have one origin share it."""
    origins = ((_name(path), *_origin(path, value, schema, past)) for path, value in fields(call.function.arguments))
    for (name, origin), group in groupby(origins, key=lambda found: (found[0], found[2])):
        values = ", ".join(value for _, value, _ in group if value)
        yield f"the {name} {values} is {origin}" if values else f"the {name} is {origin}"


def _origin(path: Path, value: Any, schema: dict[str, Any], past: "_Past") -> tuple[str, str]:
    """(the value as said, its origin). Prose, truth values and null are not repeated."""
    literal = as_literal(value)
    if literal is not None:
        return literal, past.origin(literal) or _in_schema(path, value, schema) or past.wording(literal)
    if isinstance(value, str):
        return "", "new" if value.strip() else "empty"
    return "", "null" if value is None else str(value).lower()


def _name(path: Path) -> str:
    """The argument's name: the last key of its path."""
    return next((str(part) for part in reversed(path) if isinstance(part, str)), "value")


def _in_schema(path: Path, value: Any, schema: Any) -> str | None:
    for part in path:
        inner = schema.get("items") if isinstance(part, int) else (schema.get("properties") or {}).get(part)
        if not isinstance(inner, dict):
            return None
        schema = inner
    if "default" in schema and schema["default"] == value:
        return "the default"
    return "a choice of the tool" if value in (schema.get("enum") or ()) else None


class _Past:
    """What stood before the turn."""

    def __init__(self, history: Sequence[Message]) -> None:
        self.user = _said(history, Role.USER)
        self.system = _said(history, Role.SYSTEM)
        answers = [m for m in history if m.role is Role.TOOL and not m.is_error]
        self.seen = [seen for m in answers for seen in _scalars(m.name or "the tool", m.tool_call_id, m.content or "")]
        self.asked: dict[str, list[str | None]] = {}
        """Literal → ids of the calls that held it."""
        for call in (call for m in history for call in m.tool_calls):
            for _, literal in _literals(call.function.arguments):
                self.asked.setdefault(literal.casefold(), []).append(call.id)

    def origin(self, literal: str) -> str | None:
        """Where a value first stood."""
        forms = (literal, *number_forms(literal))
        if any(stands_in(form, self.user) for form in forms):
            return "from the user"
        wanted = literal.casefold()
        for seen in self.seen:
            if seen.literal.casefold() == wanted and seen.call not in self.asked.get(wanted, ()):
                return f"from the result of {seen.tool}{self._chosen(seen)}"
        if wanted in self.asked:
            return "from an earlier call"
        for seen in self.seen:
            if len(seen.literal) > len(literal) and stands_in(literal, seen.literal.casefold()):
                return f"from the result of {seen.tool} ({_name(seen.path)})"
        return "from the system message" if any(stands_in(form, self.system) for form in forms) else None

    def wording(self, literal: str) -> str:
        """Of a value that stands nowhere: whether it is in the user's words."""
        words = [word for word in literal.split() if len(word) > 3]
        known = sum(stands_in(word, self.user) for word in words)
        return "in the user's words" if len(words) > 1 and 2 * known >= len(words) else "new"

    def _chosen(self, seen: _Seen) -> str:
        """The field of the record by which it was chosen."""
        if seen.record is None:
            return ""
        for key, value in seen.record.items():
            literal = as_literal(value)
            if literal and key != seen.path[-1] and (stands_in(literal, self.user) or literal.casefold() in self.asked):
                return f" ({key} {literal})"
        return ""


def _said(history: Sequence[Message], role: Role) -> str:
    return "\n".join(m.content or "" for m in history if m.role is role).casefold()


def _literals(value: Any) -> Iterator[tuple[Path, str]]:
    for path, scalar in fields(value):
        literal = as_literal(scalar)
        if literal:
            yield path, literal


@lru_cache(maxsize=4096)
def _scalars(tool: str, call: str | None, content: str) -> tuple[_Seen, ...]:
    value = parsed(content)
    return tuple(_Seen(tool, call, path or ("result",), literal, _record(value, path)) for path, literal in _literals(value))


def _record(value: Any, path: Path) -> dict[str, Any] | None:
    """The object around a scalar, where a list of several holds it."""
    places = [i for i, part in enumerate(path) if isinstance(part, int)]
    if not places:
        return None
    for part in path[: places[-1]]:
        value = value[part]
    record = value[path[places[-1]]]
    return record if isinstance(record, dict) and len(value) > 1 else None


def _answer(answer: str, past: _Past) -> str:
    """Which results hold the answer's values, the latest first named; fields that the user named already are left out."""
    folded = answer.casefold()
    found: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for seen in reversed(past.seen):
        key = seen.literal.casefold()
        if (
            key in taken
            or len(taken) >= MAX_ANSWER_FIELDS
            or any(stands_in(f, past.user) for f in (seen.literal, *number_forms(seen.literal)))
        ):
            continue
        if any(stands_in(form, folded) for form in (seen.literal, *number_forms(seen.literal))):
            taken.add(key)
            found.setdefault(seen.tool, {})[f"{_name(seen.path)} {seen.literal}"] = key
    if not found:
        return "the answer is in no result"
    parts = [f"the result of {tool} ({', '.join(reversed(list(held)))})" for tool, held in reversed(found.items())]
    return f"the answer is in {' and '.join(parts)}"
