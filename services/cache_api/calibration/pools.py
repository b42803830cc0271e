"""Pools: tools that fail alike are judged together, because one tool alone is seldom called in three hundred tasks.

A pool is a kind of tool (it reads, or it may change something) and a class of argument: `none`, `identifier` (all of them name things, so
only what is the same may answer) or `text` (some are free text, where likeness begins). Nothing of a tool's name decides.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from cacherl.tool_call import canonical_arguments
from cacherl.tool_spec import ToolSpec
from services.cache_api.argument import texts

NONE, IDENTIFIER, TEXT = "none", "identifier", "text"


def pool_of(spec: ToolSpec | None, calls: Iterable[Mapping[str, Any]]) -> str:
    """The pool of a tool, from its annotations and the arguments of recorded calls."""
    kind = "read" if spec is not None and spec.annotations.mutating is False else "mutating"
    return f"{kind}/{argument_class(spec, calls)}"


def argument_class(spec: ToolSpec | None, calls: Iterable[Mapping[str, Any]]) -> str:
    """What is said in calls: the most open argument decides."""
    some = False
    for arguments in calls:
        canonical = canonical_arguments(dict(arguments), spec)
        some = some or bool(canonical)
        if texts(canonical, spec):
            return TEXT
    return IDENTIFIER if some else NONE
