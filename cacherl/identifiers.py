"""Which values name a thing: order numbers, e-mail addresses, UUIDs (method §3.3, scope `identifier`).

Two ways, joined: the pointers in the tool's annotations (`/arguments/order_id`, or without the prefix; arrays on the way are walked
through), and the look of a value:

- an e-mail address; a UUID or any other token with letters and digits and no white space, at least three long (`A37`, `#W12`, `ord_7f3`);
- a number of four digits or more, as a JSON integer or a string; digit groups joined by `-` or `_`, five digits or more (`555-01023`).

Dates, times of day and decimal amounts are no identifiers: sharing one says little. Letter case does not matter. Of a *read* only whole
values count, since an identifier narrows what it depends on; of a *mutation* the words of texts and the keys of objects count too, since
they widen what it may have changed. Both errors fall on the careful side: fewer hits, never a stale one.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

from cacherl.pointer import parts, values_at
from cacherl.tool_spec import ToolSpec

__all__ = ["identifiers", "looks_like_identifier", "mentioned"]

_MAX_LENGTH = 128
_DATE_OR_TIME = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d\d)"
    r"|\d{1,2}(?::\d\d){0,2} ?[ap]m|T?\d{1,2}:\d\d.*",
    re.I,
)
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@.]+")
_MIXED = re.compile(r"(?=[^\s]*[A-Za-z])(?=[^\s]*\d)[#@$]?\w[\w\-./:#+]{2,}|(?=[^\s]*[A-Za-z])(?=[^\s]*\d)[#@$]\w\w+")
_NUMBER = re.compile(r"#?\d{4,}")
_GROUPED = re.compile(r"\+?\d+(?:[-_]\d+)+")
_TELLING = re.compile(r"[\d@]")
"""Whatever looks like an identifier holds one of these."""
_WORD = re.compile(r"[^\s,;!?\"'`()\[\]{}<>=|]+")


def identifiers(arguments: dict[str, Any], spec: ToolSpec | None = None) -> frozenset[str]:
    """The identifiers that a call's arguments hold as whole values."""
    found: set[str] = set()
    for pointer in spec.annotations.identifier if spec else ():
        path = parts(pointer, "arguments") or parts("/arguments" + pointer, "arguments") or []
        for value in values_at(arguments, path):
            found.update(_normal(leaf) for leaf in _leaves(value) if leaf is not None and leaf != "" and not isinstance(leaf, bool))
    found.update(_normal(leaf) for leaf in _leaves(arguments) if looks_like_identifier(leaf))
    return frozenset(found)


def mentioned(value: Any) -> frozenset[str]:
    """Every identifier that a JSON value mentions: whole values, words of texts, keys of objects, values inside embedded JSON documents."""
    return _mentioned_text(value) if isinstance(value, str) else _mentioned(value)


@lru_cache(maxsize=256)
def _mentioned_text(text: str) -> frozenset[str]:
    """A result is asked for twice in a row: for its link and for the state."""
    return _mentioned(text)


def _mentioned(value: Any) -> frozenset[str]:
    found: set[str] = set()
    for leaf in _leaves(value, keys=True):
        if isinstance(leaf, str):
            if _TELLING.search(leaf):
                found.update(_in_text(leaf))
        elif looks_like_identifier(leaf):
            found.add(_normal(leaf))
    return frozenset(found)


def looks_like_identifier(value: Any) -> bool:
    """Whether a scalar names a thing by its look."""
    if isinstance(value, str):
        return _string_looks(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return whole and not isinstance(value, bool) and abs(value) >= 1000


@lru_cache(maxsize=16384)
def _string_looks(text: str) -> bool:
    text = text.strip()
    if not text or len(text) > _MAX_LENGTH or _DATE_OR_TIME.fullmatch(text):
        return False
    if _EMAIL.fullmatch(text) or _NUMBER.fullmatch(text):
        return True
    if _GROUPED.fullmatch(text):
        return sum(map(str.isdigit, text)) >= 5
    return len(text) >= 3 and _MIXED.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _in_text(text: str) -> frozenset[str]:
    words = (word.rstrip(".:").lstrip(":") for word in _WORD.findall(text))
    return frozenset(_normal(word) for word in (text, *words) if _string_looks(word))


def _normal(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().casefold()


def _leaves(value: Any, keys: bool = False) -> Iterator[Any]:
    """The scalars of a JSON value, and of JSON documents that stand in it as text."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
            if keys:
                yield from item
        elif isinstance(item, list | tuple):
            stack.extend(item)
        else:
            embedded = _embedded(item) if isinstance(item, str) and item[:1] in ("{", "[") else None
            if embedded is None:
                yield item
            else:
                stack.append(embedded)


def _embedded(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
