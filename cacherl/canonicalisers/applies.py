"""Which arguments of a call hold SQL: by their names and descriptions, in general words."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cacherl.tool_spec import ToolSpec

_SAYS_SQL = re.compile(r"\bSQL\b", re.I)
_NAMED = frozenset({"sql", "query", "statement", "statements", "queries"})
_SPLIT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z]+")
DIALECTS = (("postgres", "sql/postgres"), ("mysql", "sql/mysql"), ("mariadb", "sql/mysql"), ("sqlite", "sql/sqlite"))
"""Words that say which database reads it."""


def sql_arguments(arguments: dict[str, Any], spec: "ToolSpec | None") -> Iterator[str]:
    """Names of the texts among `arguments` that hold SQL. Where neither name nor description says so of any, all texts are tried."""
    texts = [name for name, value in arguments.items() if isinstance(value, str)]
    said = [name for name in texts if says_sql(name, _description(name, spec))]
    named = said or [name for name in texts if _NAMED.intersection(_words(name))]
    return iter(named or texts)


def says_sql(name: str, description: str) -> bool:
    """Whether an argument's name or description says that it holds SQL."""
    return "sql" in _words(name) or _SAYS_SQL.search(description) is not None


def sql_properties(spec: "ToolSpec") -> list[str]:
    """The arguments of a tool's schema that say that they hold SQL, or are named like a query of a tool that says it speaks SQL."""
    properties = spec.function.parameters.get("properties")
    texts = [name for name, inner in properties.items() if _is_text(inner)] if isinstance(properties, dict) else []
    said = [name for name in texts if says_sql(name, _description(name, spec))]
    if said or not (_SAYS_SQL.search(spec.function.description) or "sql" in _words(spec.name)):
        return said
    return [name for name in texts if _NAMED.intersection(_words(name))]


def dialect_of(spec: "ToolSpec") -> str:
    """The canonicaliser for the database that the tool's words name; `sql` where they name none or several."""
    said = " ".join([spec.name, spec.function.description, *(_description(name, spec) for name in sql_properties(spec))]).lower()
    found = {canonicaliser for word, canonicaliser in DIALECTS if word in said}
    return found.pop() if len(found) == 1 else "sql"


def _description(name: str, spec: "ToolSpec | None") -> str:
    properties = spec.function.parameters.get("properties") if spec is not None else None
    inner = properties.get(name) if isinstance(properties, dict) else None
    said = inner.get("description") if isinstance(inner, dict) else None
    return said if isinstance(said, str) else ""


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type") in ("string", None)


@lru_cache(maxsize=4096)
def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _SPLIT.split(name) if word)
