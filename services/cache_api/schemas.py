"""Tool specs at the door: a schema that is no JSON Schema is refused where it comes in, not at the first call that needs it."""

from collections.abc import Sequence
from typing import Any

from cacherl.errors import DataError, InputError
from cacherl.tool_spec import ToolSpec

MAX_DETAIL = 300


def schema_fault(spec: ToolSpec) -> str | None:
    """What is wrong with a tool's schema, None where nothing is."""
    try:
        spec.refusals({})
    except DataError as error:
        return error.detail[:MAX_DETAIL]
    return None


def refuse_no_schema(spec: ToolSpec, where: str, line: int) -> None:
    """Raises DataError `tool-schema` for a spec on a line whose schema is none."""
    fault = schema_fault(spec)
    if fault is not None:
        raise DataError(fault, line=line, pointer=f"{where}/function/parameters", slug="tool-schema")


def refuse_bad_tools(tools: Sequence[ToolSpec]) -> None:
    """Raises InputError `tool-schema` that points at every spec whose schema is none, or whose name cannot be stored."""
    errors: list[dict[str, Any]] = []
    for number, spec in enumerate(tools):
        fault = schema_fault(spec)
        if fault is not None:
            errors.append({"pointer": f"/tools/{number}/function/parameters", "detail": fault})
        if "\0" in spec.name:
            errors.append({"pointer": f"/tools/{number}/function/name", "detail": "the text holds a character that cannot be stored"})
    if errors:
        raise InputError("A tool cannot be read.", errors=errors, slug="tool-schema")
