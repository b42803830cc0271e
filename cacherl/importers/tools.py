"""Tool schemas as logs and companion files hold them, to `ToolSpec`: OpenAI, bare functions and MCP tools with their hints."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydantic_core
from pydantic import ValidationError

from cacherl.errors import DataError
from cacherl.importers.records import parse_json
from cacherl.tool_spec import Annotations, Function, ToolSpec

__all__ = ["companion_tools", "tool_specs"]


def tool_specs(raw: Any, repairs: list[str]) -> tuple[ToolSpec, ...]:
    """The specs of a record's `tools`; none where the log has none. Raises `DataError` (`tool-schema`) for one that is no tool."""
    if not raw:
        return ()
    if isinstance(raw, str):
        repairs.append("tools-as-text")
        try:
            raw = parse_json(raw)
        except ValueError:
            raise DataError("tools are not JSON", pointer="/tools", slug="tool-schema") from None
    if not isinstance(raw, list):
        raise DataError("tools are not a list", pointer="/tools", slug="tool-schema")
    return _specs(pydantic_core.to_json(raw))


def companion_tools(path: Path) -> tuple[ToolSpec, ...]:
    """The specs of a tool file that lies beside a log."""
    try:
        return tool_specs(parse_json(path.read_bytes()), [])
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}", slug="tool-schema") from None


@lru_cache(maxsize=2048)
def _specs(raw: bytes) -> tuple[ToolSpec, ...]:
    specs = tuple(_spec(item, f"/tools/{i}") for i, item in enumerate(parse_json(raw)))
    _distinct(specs)
    return specs


def _distinct(specs: Sequence[ToolSpec]) -> None:
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two tools are named {twice}", pointer="/tools", slug="tool-schema")


def _spec(item: Any, pointer: str) -> ToolSpec:
    function = item.get("function", item) if isinstance(item, dict) else None
    if not isinstance(function, dict):
        raise DataError("a tool is not an object", pointer=pointer, slug="tool-schema")
    parameters = function.get("parameters") or function.get("inputSchema") or function.get("input_schema")
    fields = {"name": function.get("name"), "description": function.get("description") or "", "strict": function.get("strict")}
    try:
        made = Function(**fields, **({"parameters": parameters} if parameters else {}))
        spec = ToolSpec(function=made, annotations=_annotations(item, function))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"a tool schema is not valid: {first['msg']}", pointer=f"{pointer}/{'/'.join(map(str, first['loc']))}", slug="tool-schema"
        ) from None
    spec.refusals({})  # a schema that is none would fail at the first call
    return spec


_MCP_HINTS = ("readOnlyHint", "idempotentHint", "destructiveHint", "openWorldHint")


def _annotations(item: dict[str, Any], function: dict[str, Any]) -> Annotations:
    """Our own annotations, or what MCP's hints say.

    What its server calls read-only does not mutate, what it calls destructive does; an idempotent call changes nothing when repeated.
    """
    raw = item.get("annotations") or function.get("annotations")
    if not isinstance(raw, dict):
        return Annotations()
    hints = {name: raw[name] for name in _MCP_HINTS if isinstance(raw.get(name), bool)}
    if not hints:
        return Annotations.model_validate({name: value for name, value in raw.items() if name in Annotations.model_fields})
    facts: dict[str, Any] = {}
    if "readOnlyHint" in hints:
        facts["mutating"] = not hints["readOnlyHint"]
    elif hints.get("destructiveHint"):
        facts["mutating"] = True
    if "idempotentHint" in hints:
        facts["idempotent"] = hints["idempotentHint"]
    return Annotations(**facts, inferred={name: {"from": "mcp", **hints, "strength": "given"} for name in facts})
