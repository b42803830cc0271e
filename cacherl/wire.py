"""The base of every shape that goes over a wire or into a file: unknown fields are refused, numbers are finite, times are UTC."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue, PlainSerializer

__all__ = ["Json", "Time", "Wire"]

Json = JsonValue


def _utc(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


Time = Annotated[AwareDatetime, PlainSerializer(_utc, return_type=str, when_used="json")]
"""RFC 3339 with an offset."""


class Wire(BaseModel):
    """A shape that others' code depends on."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, ser_json_inf_nan="null")
