"""A tool: its schema in OpenAI function format, and annotations that say how its results depend on the past (method §3.2).

Annotations are facts about a tool that decide how recordings of it may be served. They are given by the user, read from MCP hints or
inferred from the recordings; `None` means "nothing is known", and a tool that nothing shows to be read-only counts as mutating.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal

import jsonschema_rs
import pydantic_core
from pydantic import Field, field_validator

from cacherl.canonicalisers import CANONICALISERS
from cacherl.errors import DataError
from cacherl.pointer import pointer
from cacherl.remembered import Remembered
from cacherl.wire import Json, Wire


class Scope(StrEnum):
    """Which earlier mutating calls a tool's result depends on (method §3.3), finest first."""

    NONE = "none"
    """Nothing that was recorded changes its result."""
    IDENTIFIER = "identifier"
    """Mutations of its resource group that share an identifier with this call's arguments."""
    GROUP = "group"
    """Mutations of its resource group."""
    ALL = "all"
    """Every mutation."""


class Annotations(Wire):
    """How a tool behaves. Every field may be unknown."""

    mutating: bool | None = None
    """Whether a call changes state."""
    idempotent: bool | None = None
    """Whether a call that is repeated at once changes nothing more."""
    reads_state: bool | None = None
    """Whether the result depends on earlier mutations."""
    stochastic: bool | None = None
    """Whether the same arguments in the same state give different results."""
    volatile: list[str] = []
    """JSON pointers of arguments (`/arguments/…`) and result fields (`/result/…`) that carry no meaning: request ids, times."""
    immaterial: list[str] = []
    """JSON pointers of arguments (`/arguments/…`) whose text does not change the result, though it may change the state: a thought that is
    noted, the body of a mail."""
    identifier: list[str] = []
    """JSON pointers of arguments that name a thing; two different values never match by similarity."""
    canonicaliser: str | None = None
    """Name of a per-tool canonicaliser (`cacherl.canonicalisers`), such as `sql`."""
    ttl_s: int | None = Field(default=None, ge=1)
    """Seconds after which a recording is no longer an exact answer."""
    scope: Scope | None = None
    """Learned or given; unknown is read as `group`."""
    resource_group: str | None = None
    """Tools whose mutations can change one another's results; unknown is the namespace of the name."""
    inferred: dict[str, Json] = {}
    """Evidence for each field that was inferred rather than given."""

    @field_validator("canonicaliser")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in CANONICALISERS:
            raise ValueError(f"there is no canonicaliser {name!r}; there are {', '.join(CANONICALISERS)}")
        return name


class Function(Wire):
    """The OpenAI function object."""

    name: str = Field(min_length=1, max_length=256)
    description: str = ""
    parameters: dict[str, Json] = {"type": "object", "properties": {}}
    strict: bool | None = None


class ToolSpec(Wire):
    """One tool that a policy may call."""

    type: Literal["function"] = "function"
    function: Function
    annotations: Annotations = Annotations()

    @property
    def name(self) -> str:
        """The name that a call uses."""
        return self.function.name

    @property
    def resource_group(self) -> str:
        """The annotated group, else the namespace of the name (before its last dot), else one group for all."""
        if self.annotations.resource_group is not None:
            return self.annotations.resource_group
        return self.name.rpartition(".")[0]

    def refusals(self, arguments: dict[str, Any]) -> list[tuple[str, str]]:
        """What the schema refuses in `arguments`: (JSON pointer, reason) pairs; empty when they are valid.

        Raises `DataError` (`tool-schema`) where the schema itself is no JSON Schema. References to other documents are never followed.
        """
        try:
            validator = _validator_of(self.function.parameters)
            if validator.is_valid(arguments):
                return []
            return [(pointer(error.instance_path), error.message) for error in validator.iter_errors(arguments)]
        except ValueError as error:  # a schema that is none, or that refers to what it must not
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"the schema of {self.name} is not valid: {reason}", pointer="/function/parameters", slug="tool-schema"
            ) from None


def _made(parameters: dict[str, Any]) -> jsonschema_rs.Validator:
    return _validator(pydantic_core.to_json(parameters))


_validator_of: Remembered[dict[str, Any], jsonschema_rs.Validator] = Remembered(_made)


@lru_cache(maxsize=4096)
def _validator(schema: bytes) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(pydantic_core.from_json(schema), offline=True)
