"""Which tools' texts can be canonicalised: an argument that is said to hold SQL, whose recorded values are SQL."""

from collections.abc import Iterable
from typing import Any

from cacherl.canonicalisers import reads
from cacherl.canonicalisers.applies import dialect_of, sql_properties
from cacherl.tool_spec import ToolSpec

MIN_VALUES = 3
MIN_SHARE = 0.5
"""What is no SQL is left as it is, so half of the values are enough."""


def asks_for_texts(spec: ToolSpec) -> bool:
    """Whether recorded values could tell: nobody has named a canonicaliser, and the schema speaks of SQL."""
    return spec.annotations.canonicaliser is None and bool(sql_properties(spec))


def with_canonicaliser(spec: ToolSpec, recorded: Iterable[dict[str, Any]]) -> ToolSpec:
    """The spec with the canonicaliser that the recorded arguments bear out, and the evidence."""
    names = sql_properties(spec)
    values = {value for arguments in recorded for name in names if isinstance(value := arguments.get(name), str)}
    chosen = dialect_of(spec)
    parsed = sum(reads(chosen, value) for value in values)
    if len(values) < MIN_VALUES or parsed < MIN_SHARE * len(values):
        return spec
    proof = {"from": "recordings", "arguments": names, "values": len(values), "read": parsed, "strength": "strong"}
    said = spec.annotations
    return spec.model_copy(
        update={"annotations": said.model_copy(update={"canonicaliser": chosen, "inferred": said.inferred | {"canonicaliser": proof}})}
    )
