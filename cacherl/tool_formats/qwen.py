"""Qwen's way of writing calls: `<think>…</think>`, then text, then `<tool_call>{"name": …, "arguments": …}</tool_call>` blocks.

Strict: a block holds one JSON object with the keys `name` and `arguments` and nothing else; duplicate keys, NaN, lone surrogates, integers
beyond 64 bits and nesting beyond the canonical form's limit are refused. Nothing inside thinking is a call.
"""

import json
from collections.abc import Iterator
from typing import Any

import orjson

from cacherl.errors import DataError
from cacherl.tool_call import ToolCall, canonical
from cacherl.tool_formats.parsed import ParsedCall, ParsedTurn

THINK, UNTHINK = "<think>", "</think>"
OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_NAME = 256
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1


class Qwen:
    """The format of Qwen3 and its relatives."""

    name = "qwen"
    markers: tuple[str, ...] = (THINK, UNTHINK, OPEN, CLOSE, "<tool_response>", "</tool_response>", "<tools>", "</tools>")
    after_thinking = UNTHINK + "\n\n"
    empty_thinking = f"{THINK}\n\n{UNTHINK}\n\n"

    def parse(self, text: str, *, thinking_injected: bool = False) -> ParsedTurn:
        """Takes a turn apart; spans are positions in `text`."""
        thinking, body_start = None, 0
        if not thinking_injected and text.lstrip().startswith(THINK):
            start = text.index(THINK) + len(THINK)
            end = text.find(UNTHINK, start)
            if end < 0:
                return ParsedTurn(thinking=_between(text[start:]), thinking_closed=False, content=text)
            thinking, body_start = _between(text[start:end]), end + len(UNTHINK)
            body_start += len("\n\n") if text.startswith("\n\n", body_start) else 0
        calls = list(_blocks(text, body_start))
        return ParsedTurn(thinking=thinking, thinking_closed=True, content=_outside(text, body_start, calls), calls=calls)


def _between(text: str) -> str:
    """The thinking without the line breaks that the template puts around it."""
    return text.removeprefix("\n").removesuffix("\n")


def _blocks(text: str, start: int) -> Iterator[ParsedCall]:
    """Every call block from `start` on; an unterminated one ends where the next begins, or with the text."""
    at = start
    while True:
        opened, closed = text.find(OPEN, at), text.find(CLOSE, at)
        if closed >= 0 and (opened < 0 or closed < opened):
            at = closed + len(CLOSE)
            yield ParsedCall(closed, at, None, f"{CLOSE} without {OPEN} before it", closed=False)
            continue
        if opened < 0:
            return
        inside = opened + len(OPEN)
        again = text.find(OPEN, inside)
        limit = again if again >= 0 else len(text)
        if closed < 0 or closed > limit:
            at = limit
            yield ParsedCall(opened, limit, None, f"the block was not closed with {CLOSE}", closed=False)
            continue
        at = closed + len(CLOSE)
        call, error = _read(text[inside:closed])
        yield ParsedCall(opened, at, call, error)


def _outside(text: str, start: int, calls: list[ParsedCall]) -> str:
    """The text outside of well-formed calls, without the line breaks that separate them from it."""
    parts: list[str] = []
    at = start
    for call in calls:
        if call.call is None:
            continue
        parts.append(text[at : call.start].removesuffix("\n"))
        at = call.end
    rest = text[at:]
    parts.append(rest.removeprefix("\n") if at > start else rest)
    return "\n".join(part for part in parts if part)


def _read(block: str) -> tuple[ToolCall | None, str | None]:
    """The call in a block, or why there is none."""
    try:
        value = _json(block)
    except ValueError as error:
        return None, f"the block is not valid JSON: {error}"
    if not isinstance(value, dict):
        return None, 'the block must hold one JSON object {"name": …, "arguments": {…}}'
    if set(value) != {"name", "arguments"}:
        return None, f"the object must have exactly the keys name and arguments, not: {', '.join(sorted(value)) or 'none'}"
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return None, f"name must be a string of 1 to {MAX_NAME} characters"
    if not isinstance(arguments, dict):
        return None, "arguments must be a JSON object"
    return ToolCall.model_construct(id=None, name=name, arguments=arguments), None


def _json(block: str) -> Any:
    """The block's JSON value, strictly. Raises ValueError (its subclass JSONDecodeError says where)."""
    try:
        canonical(orjson.loads(block))
    except DataError as error:
        raise ValueError(error.detail) from error
    # A second reader for what the first one lets pass: duplicate keys and integers that it would round.
    return json.loads(block, object_pairs_hook=_no_duplicates, parse_int=_integer)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _integer(digits: str) -> int:
    value = int(digits) if len(digits) <= len(str(MIN_INTEGER)) else MAX_INTEGER + 1
    if not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("an integer has more than 64 bits")
    return value
