"""Shapes that all services share (contracts §1)."""

from typing import Generic, TypeVar

from pydantic import Field

from cacherl.jobs import JobState
from cacherl.wire import Json, Wire

T = TypeVar("T")


class FieldError(Wire):
    """What is wrong with one field or line."""

    detail: str
    pointer: str | None = None
    line: int | None = None


class Problem(Wire):
    """RFC 9457 `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str | None = None
    errors: list[FieldError] = []

    model_config = {**Wire.model_config, "extra": "ignore"}

    @property
    def slug(self) -> str:
        """The last part of the type."""
        return self.type.rpartition(":")[2]


class Page(Wire, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = None


class Accepted(Wire):
    """Long work was accepted."""

    id: str
    state: JobState
    url: str


class Progress(Wire):
    """How far long work is."""

    done: float = Field(default=0, ge=0)
    total: float | None = None
    unit: str = "items"


Document = dict[str, Json]
