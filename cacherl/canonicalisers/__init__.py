"""Per-tool canonicalisers: two spellings of one argument become one text, before anything is compared (method §3.4).

A tool's annotation `canonicaliser` names one. It is a function of a text alone, changes nothing but what is written twice in two ways,
and leaves whatever it cannot read as it is: merging too little costs a hit, merging too much serves a wrong answer. To add one: a file here
with a function `fold(text) -> str` (idempotent, deterministic), its name in `CANONICALISERS`, and its must-merge and must-stay-distinct
sets in the tests. A canonicaliser is loaded when it is first used; without one, keys are what they always were.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cacherl.canonicalisers.applies import sql_arguments

if TYPE_CHECKING:
    from cacherl.tool_spec import ToolSpec

__all__ = ["CANONICALISERS", "canonicalised", "fold", "pointers"]

CANONICALISERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sql": ("sql", {"dialect": None}),
    "sql/postgres": ("sql", {"dialect": "postgres"}),
    "sql/mysql": ("sql", {"dialect": "mysql"}),
    "sql/sqlite": ("sql", {"dialect": "sqlite"}),
}
"""Name → file here and what its `fold` is told. `sql` alone folds only what all dialects read alike."""


def fold(name: str, text: str) -> str:
    """The canonical spelling of a text; a text that cannot be read is its own. Raises KeyError for a name that does not exist."""
    return _loaded(name)(text)


def canonicalised(arguments: dict[str, Any], spec: "ToolSpec") -> dict[str, Any]:
    """Canonical arguments with those texts folded to which the tool's canonicaliser applies."""
    name = spec.annotations.canonicaliser
    if name is None:
        return arguments
    folded = _loaded(name)
    chosen = set(pointers(arguments, spec))
    return {key: folded(value) if key in chosen else value for key, value in arguments.items()}


def pointers(arguments: dict[str, Any], spec: "ToolSpec") -> Iterator[str]:
    """The names of the arguments to which a tool's canonicaliser applies: texts at the top of the arguments."""
    return sql_arguments(arguments, spec)


@cache
def _loaded(name: str) -> Callable[[str], str]:
    file, told = CANONICALISERS[name]
    return partial(import_module(f"cacherl.canonicalisers.{file}").fold, **told)
