"""What an MCP tool answered, where a log holds the whole result object: as JSON, as Python's repr of it, or one inside the other.

Text blocks give their text, one a line where there are several; blocks that are not text stay JSON. The result is an error where any of the
objects around the text says so. One that the log cut off gives the text up to the cut, which is what the log knows of it, and no flag.
Nothing is evaluated: a repr is read by its grammar, and one with other blocks is refused.
"""

import ast
import re
from typing import Any

import pydantic_core

from cacherl.errors import DataError

__all__ = ["mcp_result"]

_ESCAPE = r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[^xuU])"
_BEGUN = rf"""(?:'(?:[^'\\]|{_ESCAPE})*|"(?:[^"\\]|{_ESCAPE})*)"""
"""A Python string literal without its closing quote."""
_BLOCK = rf"TextContent\(type='text', text=({_BEGUN}['\"]), annotations=None(?:, meta=None)?\)"
_BLOCKS = re.compile(_BLOCK, re.S)
_HEAD = "meta=None content=["
_WHOLE = re.compile(rf"{re.escape(_HEAD)}((?:{_BLOCK}(?:, )?)*)\](?: structuredContent=.*)? isError=(True|False)", re.S)
_CUT = re.compile(rf"{re.escape(_HEAD)}((?:{_BLOCK}, )*)TextContent\(type='text', text=({_BEGUN})(?:\\[xuU]?[0-9a-f]{{0,7}})?\Z", re.S)
_NESTED = 4


def mcp_result(content: str, pointer: str, repairs: list[str]) -> tuple[str, bool | None]:
    """(text, whether it is an error; None where nothing says). Raises `DataError` (`mcp-result`) for a repr that cannot be read."""
    text, error, cut = content, None, False
    for _ in range(_NESTED):
        found = _repr(text, pointer) if text.startswith(_HEAD) else _object(text, cut)
        if found is None:
            break
        text, flag = found
        cut = cut or flag is None
        error = None if cut else flag or bool(error)
        repairs.append("mcp-result-cut" if cut else "mcp-result-unwrapped")
    return text, error


def _repr(text: str, pointer: str) -> tuple[str, bool | None]:
    whole, cut = _WHOLE.fullmatch(text), None
    if whole is None:
        cut = _CUT.fullmatch(text)
    found = whole or cut
    if found is None:
        raise DataError(f"an MCP result that cannot be read: {text[:80]!r}", pointer=pointer, slug="mcp-result")
    literals = [block[1] for block in _BLOCKS.finditer(found[1])]
    if cut is not None:
        literals.append(cut[3] + cut[3][0])
    try:
        text = "\n".join(str(ast.literal_eval(literal)) for literal in literals)
    except (SyntaxError, ValueError):
        raise DataError(f"an MCP result that cannot be read: {text[:80]!r}", pointer=pointer, slug="mcp-result") from None
    return text, whole[3] == "True" if whole is not None else None


def _object(text: str, cut: bool) -> tuple[str, bool | None] | None:
    """The JSON of a result: an object with `content` blocks and `isError`, which a cut one has lost."""
    if text[:1] != "{" or '"content"' not in text:
        return None
    try:
        value: Any = pydantic_core.from_json(text, allow_inf_nan=False, allow_partial="trailing-strings" if cut else "off")
    except ValueError:
        return None
    blocks, flag = (value.get("content"), value.get("isError")) if isinstance(value, dict) else (None, None)
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return None
    if not isinstance(flag, bool) and not (cut and flag is None and "_meta" in value):
        return None
    texts = all(block.get("type") == "text" and isinstance(block.get("text"), str) for block in blocks)
    return "\n".join(block["text"] for block in blocks) if texts else pydantic_core.to_json(blocks).decode(), flag
