"""The key under which a recorded call is found: its exact key, but for texts that are known not to change the result.

A text that an annotation calls `immaterial` counts as a text, whatever it says; anything else in its place (nothing, a word, a number)
still counts as what it is. The state keeps the whole call (`cacherl.state`): what was written may be read later.
"""

from typing import Any

from cacherl.pointer import parts
from cacherl.tool_call import key_of
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import is_text

TEXT = {"$text": True}
"""Stands for a text; no text is equal to it."""


def lookup_key(name: str, canonical: dict[str, Any], spec: ToolSpec | None) -> bytes:
    """32 bytes, of canonical arguments."""
    if spec is not None and spec.annotations.immaterial:
        canonical = blanked(canonical, [path[0] for text in spec.annotations.immaterial if (path := parts(text, "arguments"))], spec)
    return key_of(name, canonical)


def blanked(canonical: dict[str, Any], names: list[str], spec: ToolSpec | None) -> dict[str, Any]:
    """Arguments with what these say left out where it is free text."""
    return canonical | {name: TEXT for name in names if is_text("/" + name, canonical.get(name), spec)}
