"""Tool names that MCP clients can take, and the way back.

MCP allows 1 to 128 of `A-Z a-z 0-9 _ - .` (SEP-986); the function-calling APIs behind most frameworks allow neither dots nor more than 64.
A name that fits stays as it is. Any other has each character that does not fit made `_` and is cut; where two tools would get one name,
those that were changed carry a hash of their own name. The map is a function of the set of tools alone.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection
from enum import StrEnum

HASH_DIGITS = 8


class NameRule(StrEnum):
    """Which names a client can take."""

    MCP = "mcp"
    """What the specification allows: dots too, up to 128 characters."""
    PLAIN = "plain"
    """What every function-calling API takes: letters, digits, `_` and `-`, up to 64 characters."""


_RULES = {NameRule.MCP: (re.compile(r"[^A-Za-z0-9._-]"), 128), NameRule.PLAIN: (re.compile(r"[^A-Za-z0-9_-]"), 64)}


class ToolNames:
    """The names of one set of tools, both ways."""

    def __init__(self, tools: Collection[str], rule: NameRule = NameRule.MCP) -> None:
        refused, length = _RULES[rule]
        wanted = {tool: refused.sub("_", tool)[:length] for tool in set(tools)}
        taken = Counter(wanted.values())
        self._shown: dict[str, str] = {}
        for tool, name in wanted.items():
            clash = name != tool and taken[name] > 1
            self._shown[tool] = name[: length - HASH_DIGITS - 1] + "_" + _hash(tool) if clash else name
        self._tools = {name: tool for tool, name in self._shown.items()}

    def shown(self, tool: str) -> str:
        """The name that clients see. Errors: KeyError for a tool that is not of the set."""
        return self._shown[tool]

    def tool(self, name: str) -> str:
        """The tool of a shown name; a name that is nobody's stays as it is: the cache says that there is no such tool."""
        return self._tools.get(name, name)


def _hash(tool: str) -> str:
    return hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
