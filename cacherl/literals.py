"""Literal values of JSON and of texts, and where one stands in another: what the leak filter, the provenance teacher and facts share.

A literal is a scalar that somebody could have copied: a string, or a number in its plain writing. A string of more than twelve words is
prose, not a literal. It stands in a text only as whole words, whatever their letter case: `A3` does not stand in `A37`, nor `4` in `4.5`.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pydantic_core

__all__ = ["as_literal", "fields", "number_forms", "parsed", "stands_in"]

MAX_WORDS = 12
MAX_LENGTH = 160


def as_literal(value: Any) -> str | None:
    """The text of a scalar that could have been copied; None for booleans, null, prose and containers."""
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if not text or len(text) > MAX_LENGTH or len(text.split()) > MAX_WORDS:
        return None
    return text


def number_forms(literal: str) -> list[str]:
    """Other ways in which prose writes a number: `1234.5` as `1,234.5` and `1,234.50`; none for anything else."""
    if not _PLAIN_NUMBER.fullmatch(literal):
        return []
    whole, dot, fraction = literal.partition(".")
    grouped = f"{int(whole):,}"
    forms = {grouped + dot + fraction, literal}
    if len(fraction) == 1:
        forms |= {f"{whole}.{fraction}0", f"{grouped}.{fraction}0"}
    return sorted(forms - {literal})


_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,14})(?:\.\d{1,6})?")


def stands_in(literal: str, text_folded: str) -> bool:
    """Whether a literal stands, as whole words, in an already casefolded text."""
    return position(literal, text_folded) is not None


def position(literal: str, text_folded: str) -> int | None:
    """Where a literal first stands in a casefolded text."""
    wanted = literal.casefold()
    at = text_folded.find(wanted)
    while at >= 0:
        if _free(text_folded, at, at + len(wanted)):
            return at
        at = text_folded.find(wanted, at + 1)
    return None


def _free(text: str, start: int, end: int) -> bool:
    """Whether [start, end) begins and ends at the edge of a word; `4` in `4.5` or `1,400` is none."""
    before, after = text[start - 1] if start else " ", text[end] if end < len(text) else " "
    if (text[start].isalnum() and before.isalnum()) or (text[end - 1].isalnum() and after.isalnum()):
        return False
    if before == "_" or after == "_":
        return False
    if text[end - 1].isdigit() and after in ".,:" and text[end + 1 : end + 2].isdigit():
        return False
    return not (text[start].isdigit() and before in ".,:" and start > 1 and text[start - 2].isdigit())


@lru_cache(maxsize=2048)
def parsed(text: str) -> Any:
    """The JSON value of a tool result's text, or the text itself where it is none. Callers must not change it."""
    if text[:1] not in ("{", "[", '"'):
        return text
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return text


def fields(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(path, scalar) of every scalar in a JSON value, in document order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from fields(inner, (*path, i))
    else:
        yield path, value
