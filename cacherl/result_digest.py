"""When two results count as the same (method §3.1, §3.3): equal after normalisation, with the volatile fields of the tool left out.

JSON documents given as text are read, then canonical; whether the call failed belongs to the result. Everybody who compares results does
it here: keys of a view, calibration, the fidelity replay.
"""

import hashlib
from functools import lru_cache
from typing import Any

import orjson
from pydantic_core import to_json

from cacherl.errors import DataError
from cacherl.tool_call import canonical, dump_canonical
from cacherl.tool_spec import ToolSpec

__all__ = ["masked", "read_document", "result_digest"]


def result_digest(content: Any, is_error: bool, spec: ToolSpec | None) -> bytes:
    """16 bytes: equal for two results that are the same after normalisation, volatile fields masked."""
    value = read_document(content)
    volatile = spec.annotations.volatile if spec is not None else []
    pointers = [pointer.removeprefix("/result").split("/")[1:] for pointer in volatile if pointer.startswith("/result/")]
    for path in pointers:
        value = masked(value, path)
    try:
        body = dump_canonical(canonical(value))
    except DataError:
        # Nested deeper than the canonical form goes, or not finite: only the same bytes are the same result.
        body = to_json(value)
    return hashlib.blake2b(body + (b"\1" if is_error else b"\0"), digest_size=16).digest()


def read_document(content: Any) -> Any:
    """What a text says where it is a JSON object or list; anything else as it is."""
    return _parsed_text(content) if isinstance(content, str) and content[:1] in ("{", "[") else content


@lru_cache(maxsize=1024)
def _parsed_text(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def masked(value: Any, path: list[str]) -> Any:
    """A copy of a JSON value with what lies at `path` left out; lists on the way are walked through."""
    if isinstance(value, list):
        rest = path[1:] if path and (path[0] == "*" or path[0].isdigit()) else path
        return [masked(item, rest) for item in value] if rest else []
    if not isinstance(value, dict) or not path or path[0] not in value:
        return value
    if len(path) == 1:
        return {name: item for name, item in value.items() if name != path[0]}
    return value | {path[0]: masked(value[path[0]], path[1:])}
