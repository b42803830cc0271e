"""What was once worked out of an object that is never changed, found again by the object's identity.

For values that cannot be hashed, or not cheaply: a schema, a spec. The object is kept beside what was made of it, so its identity stays its
own; the number kept is bounded.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Remembered"]

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A function of one object, computed once for each."""

    def __init__(self, make: Callable[[K], V], at_most: int = 4096) -> None:
        self._make = make
        self._at_most = at_most
        self._kept: dict[int, tuple[K, V]] = {}

    def __call__(self, of: K) -> V:
        """The value of an object; what its making raises is raised and not kept."""
        found = self._kept.get(id(of))
        if found is not None:
            return found[1]
        made = self._make(of)
        if len(self._kept) >= self._at_most:
            self._kept.clear()
        self._kept[id(of)] = (of, made)
        return made
