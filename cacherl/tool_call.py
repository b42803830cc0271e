"""A tool call, its canonical form and its exact key (method §3.1).

The canonical form makes two spellings of one call equal and never two different calls: keys sorted, Unicode NFC, outer white space
of strings trimmed, `1.0` is `1`, `-0` is `0`; list order, letter case, null versus absent and true versus 1 stay distinct. NaN and
Infinity are refused. `KEY_VERSION` changes whenever any of this does; golden vectors in the tests hold it.
"""

import hashlib
import json
import math
import unicodedata
from typing import Any

import orjson
import pydantic_core
from pydantic import Field, field_validator

from cacherl.canonicalisers import canonicalised
from cacherl.errors import DataError
from cacherl.pointer import parts, pointer, remove_at
from cacherl.tool_spec import ToolSpec
from cacherl.wire import Json, Wire

KEY_VERSION = 1
MAX_DEPTH = 64
MAX_TEXT = 500_000
"""Characters of one text: more is no argument of a call but a mistake."""


class ToolCall(Wire):
    """One call that a policy or a demonstration made."""

    id: str | None = None
    name: str = Field(min_length=1, max_length=256)
    arguments: dict[str, Json]

    @field_validator("arguments")
    @classmethod
    def _numbers_are_finite(cls, arguments: dict[str, Json]) -> dict[str, Json]:
        _finite(arguments)  # JSON text with NaN in it passes the type
        return arguments


Path = tuple["Path", str | int] | None
"""Where in a value: (parent, key), innermost last; None is the root."""


def canonical(value: Any, path: Path = None, depth: int = 0) -> Any:
    """The canonical form of a JSON value. Raises `DataError` for what is not finite JSON, nested beyond 64, or beyond `MAX_TEXT`."""
    if depth > MAX_DEPTH:
        raise _refused(f"nested deeper than {MAX_DEPTH}", path)
    kind = type(value)
    if kind is str:
        if len(value) > MAX_TEXT:
            raise _refused(f"longer than {MAX_TEXT} characters", path)
        return value.strip() if value.isascii() else _text(value, path).strip()
    if kind is int or kind is bool or value is None:
        return value
    match value:
        case float():
            if not math.isfinite(value):
                raise _refused("NaN and Infinity are not JSON", path)
            return int(value) if value.is_integer() else value
        case list() | tuple():
            return [canonical(item, (path, i), depth + 1) for i, item in enumerate(value)]
        case dict():
            return _canonical_object(value, path, depth)
        case str() | int():  # of a subclass
            return _text(value, path).strip() if isinstance(value, str) else value
        case _:
            raise _refused(f"{kind.__name__} is not a JSON value", path)


def _canonical_object(value: dict[Any, Any], path: Path, depth: int) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for key, inner in value.items():
        if not isinstance(key, str):
            raise _refused("object keys are strings", path)
        if len(key) > MAX_TEXT:
            raise _refused(f"a key is longer than {MAX_TEXT} characters", path)
        name = key if key.isascii() else _text(key, path)
        if name in named:
            raise _refused(f"two keys are both {name[:80]!r}", path)
        named[name] = canonical(inner, (path, name), depth + 1)
    return {name: named[name] for name in sorted(named)} if len(named) > 1 else named


def _text(text: str, path: Path) -> str:
    """Unicode NFC."""
    if text.isascii():
        return text
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _refused("half a surrogate pair is not text", path)
    return unicodedata.normalize("NFC", text)


def _refused(detail: str, path: Path) -> DataError:
    steps: list[str | int] = []
    while path is not None:
        path, step = path
        steps.append(step)
    return DataError(detail, pointer=pointer(reversed(steps)))


def canonical_arguments(arguments: dict[str, Any], spec: ToolSpec | None = None) -> dict[str, Any]:
    """Canonical arguments; with a spec: embedded documents parsed, defaults filled in, `volatile` ones left out, texts canonicalised."""
    if spec is None:
        return canonical(arguments)
    schema = spec.function.parameters
    found = canonical(_with_schema(arguments, schema, schema, 0))
    for text in spec.annotations.volatile:
        path = parts(text, "arguments")
        if path is not None:
            remove_at(found, path)
    return canonicalised(found, spec) if spec.annotations.canonicaliser is not None else found


def exact_key(name: str, arguments: dict[str, Any], spec: ToolSpec | None = None) -> bytes:
    """sha256 (32 bytes) over the canonical JSON array `[key_version, tool name, arguments]`."""
    return key_of(name, canonical_arguments(arguments, spec))


def key_of(name: str, canonical_ones: dict[str, Any]) -> bytes:
    """`exact_key` of arguments that are canonical already."""
    return hashlib.sha256(dump_canonical([KEY_VERSION, name, canonical_ones])).digest()


def dump_canonical(value: Any) -> bytes:
    """Canonical JSON bytes of an already canonical value. Integers beyond 64 bits keep every digit."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer wider than 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _with_schema(value: Any, schema: Any, root: dict[str, Any], depth: int) -> Any:
    """The value with embedded documents parsed and defaults filled in; the caller's value is left as it is."""
    schema = _resolved(schema, root)
    if schema is None or depth > MAX_DEPTH:
        return value
    if isinstance(value, str):
        value = _document(value, schema)
    if isinstance(value, dict):
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return value
        defaults, documents = _properties(schema, root)
        filled = {**defaults, **value} if defaults else value
        return {
            name: inner
            if type(inner) in _PLAIN or (type(inner) is str and name not in documents)
            else _with_schema(inner, properties.get(name), root, depth + 1)
            for name, inner in filled.items()
        }
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_with_schema(item, schema["items"], root, depth + 1) for item in value]
    return value


_PLAIN = frozenset({int, float, bool, type(None)})
"""What no schema changes."""
_PROPERTIES: dict[int, tuple[dict[str, Any], dict[str, Any], dict[str, Any], frozenset[str]]] = {}
_MAX_PROPERTIES = 8192


def _properties(schema: dict[str, Any], root: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The defaults of an object's properties, and the names of those that may hold a document as text: worked out once for each schema."""
    found = _PROPERTIES.get(id(schema))
    if found is None or found[1] is not root:
        properties = schema["properties"]
        defaults = {name: inner["default"] for name, inner in properties.items() if isinstance(inner, dict) and "default" in inner}
        documents = frozenset(name for name, inner in properties.items() if _wants_document(_resolved(inner, root)))
        if len(_PROPERTIES) >= _MAX_PROPERTIES:
            _PROPERTIES.clear()
        # The schema is kept beside what was made of it, so that its identity stays its own.
        found = _PROPERTIES[id(schema)] = (schema, root, defaults, documents)
    return found[2], found[3]


def _resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any] | None:
    """A schema with a local `$ref` followed, and with "this or null" read as this."""
    for _ in range(8):
        if not isinstance(schema, dict):
            return None
        choices = [c for c in schema.get("anyOf") or schema.get("oneOf") or () if not (isinstance(c, dict) and c.get("type") == "null")]
        if isinstance(schema.get("$ref"), str):
            schema = _at(schema["$ref"], root)
        elif len(choices) == 1 and "type" not in schema:
            schema = choices[0]
        else:
            return schema
    return None


def _at(reference: str, root: dict[str, Any]) -> Any:
    """What a `#/…` reference names; None for any other."""
    found: Any = root if reference.startswith("#") else None
    for part in reference.split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def _types(schema: dict[str, Any]) -> set[str]:
    types = schema.get("type")
    return {types} if isinstance(types, str) else {t for t in types if isinstance(t, str)} if isinstance(types, list) else set()


def _wants_document(schema: dict[str, Any] | None) -> bool:
    """Whether a string here is read as the object or array that it holds."""
    wanted = _types(schema) if schema is not None else set()
    return "string" not in wanted and bool(wanted & {"object", "array"})


def _document(text: str, schema: dict[str, Any]) -> Any:
    """The document that a string holds where the schema wants an object or an array and no string; else the string."""
    wanted = _types(schema)
    if not _wants_document(schema):
        return text
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    fits = ("object" in wanted and isinstance(value, dict)) or ("array" in wanted and isinstance(value, list))
    return value if fits else text


def _finite(value: Any) -> None:
    """Raises ValueError for a number that is not finite, anywhere in a JSON value."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("NaN and Infinity are not JSON")
    elif isinstance(value, dict):
        for inner in value.values():
            _finite(inner)
    elif isinstance(value, list):
        for inner in value:
            _finite(inner)
