"""JSON pointers (RFC 6901) of arguments and results, as annotations use them.

`/arguments/order_id` names one field. Arrays on the way are walked through, so `/arguments/items/sku` means the field of every item; `*`
and an index say the same and are accepted. `~1` is `/`, `~0` is `~`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["parts", "pointer", "remove_at", "values_at"]


def parts(text: str, root: str) -> list[str] | None:
    """The path below `/root`; None for a pointer into something else, or to all of it."""
    found = [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")]
    return found[2:] if len(found) > 2 and found[0] == "" and found[1] == root else None


def pointer(path: Iterable[str | int]) -> str:
    """The pointer of a path; the empty one is the whole."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def values_at(value: Any, path: list[str]) -> Iterator[Any]:
    """Every value at the path."""
    if isinstance(value, list):
        for item in value:
            yield from values_at(item, _inside(path))
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from values_at(value[path[0]], path[1:])


def remove_at(value: Any, path: list[str]) -> None:
    """Removes the field at the path, in place."""
    if isinstance(value, list):
        for item in value:
            remove_at(item, _inside(path))
    elif isinstance(value, dict) and path:
        if len(path) == 1:
            value.pop(path[0], None)
        elif path[0] in value:
            remove_at(value[path[0]], path[1:])


def _inside(path: list[str]) -> list[str]:
    return path[1:] if path and (path[0] == "*" or path[0].isdigit()) else path
