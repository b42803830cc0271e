"""A tool call, its canonical form and its exact key (method §3.1).

The canonical form makes two spellings of one call equal and never two different calls: keys sorted, Unicode NFC, outer white space
of strings trimmed, `1.0` is `1`, `-0` is `0`; list order, letter case, null versus absent and true versus 1 stay distinct. NaN and
Infinity are refused. `KEY_VERSION` changes whenever any of this does; golden vectors in the tests hold it.
"""

import copy
import hashlib
import json
import math
import unicodedata
from typing import Any

import orjson
from pydantic import Field

from cacherl.errors import DataError
from cacherl.tool_spec import ToolSpec
from cacherl.wire import Json, Wire

KEY_VERSION = 1
MAX_DEPTH = 64


class ToolCall(Wire):
    """One call that a policy or a demonstration made."""

    id: str | None = None
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Json]


def canonical(value: Any, pointer: str = "", depth: int = 0) -> Any:
    """The canonical form of a JSON value. Raises `DataError` for NaN, Infinity, non-JSON types and nesting deeper than 64."""
    if depth > MAX_DEPTH:
        raise DataError(f"nested deeper than {MAX_DEPTH}", pointer=pointer)
    match value:
        case None | bool():
            return value
        case str():
            return unicodedata.normalize("NFC", value).strip()
        case int():
            return value
        case float():
            if not math.isfinite(value):
                raise DataError("NaN and Infinity are not JSON", pointer=pointer)
            return int(value) if value == int(value) else value
        case list() | tuple():
            return [canonical(item, f"{pointer}/{i}", depth + 1) for i, item in enumerate(value)]
        case dict():
            return {key: canonical(value[key], f"{pointer}/{key}", depth + 1) for key in sorted(value, key=_key_order)}
        case _:
            raise DataError(f"{type(value).__name__} is not a JSON value", pointer=pointer)


def _key_order(key: Any) -> str:
    if not isinstance(key, str):
        raise DataError("object keys are strings")
    return unicodedata.normalize("NFC", key)


def canonical_arguments(arguments: dict[str, Any], spec: ToolSpec | None = None) -> dict[str, Any]:
    """Canonical arguments; with a schema: embedded JSON documents parsed, defaults filled in, `volatile` arguments left out."""
    if spec is None:
        return canonical(arguments)
    filled = _with_schema(copy.deepcopy(arguments), spec.function.parameters)
    for pointer in spec.annotations.volatile:
        if pointer.startswith("/arguments/"):
            _remove(filled, pointer.removeprefix("/arguments/").split("/"))
    return canonical(filled)


def exact_key(name: str, arguments: dict[str, Any], spec: ToolSpec | None = None) -> bytes:
    """sha256 (32 bytes) over the canonical JSON array `[key_version, tool name, arguments]`."""
    return hashlib.sha256(dump_canonical([KEY_VERSION, name, canonical_arguments(arguments, spec)])).digest()


def dump_canonical(value: Any) -> bytes:
    """Canonical JSON bytes of an already canonical value. Integers beyond 64 bits keep every digit."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer wider than 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _with_schema(value: Any, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return value
    if isinstance(value, str) and schema.get("type") in ("object", "array"):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    properties = schema.get("properties")
    if isinstance(value, dict) and isinstance(properties, dict):
        for name, inner in properties.items():
            if name in value:
                value[name] = _with_schema(value[name], inner)
            elif isinstance(inner, dict) and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_with_schema(item, schema["items"]) for item in value]
    return value


def _remove(value: Any, path: list[str]) -> None:
    for part in path[:-1]:
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value.pop(path[-1], None)
