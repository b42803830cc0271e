"""Per-tool canonicalisers: two spellings of one argument become one text, before anything is compared (method §3.4).

A tool's annotation `canonicaliser` names one. It is a function of a text alone, changes nothing but what is written twice in two ways,
and leaves whatever it cannot read as it is: merging too little costs a hit, merging too much serves a wrong answer. To add one: a file
here with `fold(text) -> str` (idempotent, deterministic) and `reads(text) -> bool`, its name in `CANONICALISERS`, and its must-merge and
must-stay-distinct sets in the tests. A canonicaliser is loaded when it is first used; without one, keys are what they always were.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cacherl.canonicalisers.applies import sql_arguments

if TYPE_CHECKING:
    from cacherl.tool_spec import ToolSpec

__all__ = ["CANONICALISERS", "canonicalised", "fold", "folded_arguments", "reads"]

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


def reads(name: str, text: str) -> bool:
    """Whether a canonicaliser can read a text for certain."""
    return _loaded(name, "reads")(text)


def canonicalised(arguments: dict[str, Any], spec: "ToolSpec") -> dict[str, Any]:
    """Canonical arguments with those texts folded to which the tool's canonicaliser applies."""
    name = spec.annotations.canonicaliser
    if name is None:
        return arguments
    folded = _loaded(name)
    chosen = set(folded_arguments(arguments, spec))
    return {key: folded(value) if key in chosen else value for key, value in arguments.items()}


def folded_arguments(arguments: dict[str, Any], spec: "ToolSpec") -> Iterator[str]:
    """The names of the arguments to which a tool's canonicaliser applies: texts at the top of the arguments."""
    return sql_arguments(arguments, spec)


@cache
def _loaded(name: str, function: str = "fold") -> Callable[[str], Any]:
    file, told = CANONICALISERS[name]
    return partial(getattr(import_module(f"cacherl.canonicalisers.{file}"), function), **told)
