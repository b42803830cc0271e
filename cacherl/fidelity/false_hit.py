"""What kind of error a false hit is: the served result is not the recorded true one, and why (contracts §7)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cacherl.result_digest import result_digest
from cacherl.tier import ToolResult

__all__ = ["FalseHit", "Served", "false_hit"]


class FalseHit(StrEnum):
    """Why a hit is false; the first that holds."""

    ERROR_TO_SUCCESS = "error_to_success"
    """The true call failed, and a success was served: forgiveness."""
    SUCCESS_TO_ERROR = "success_to_error"
    """The true call succeeded, and a failure was served."""
    VOLATILE_ONLY = "volatile_only"
    """Nothing differs but ids, times and tokens that are made anew each time."""
    WRONG_ENTITY = "wrong_entity"
    """The recorded call had other arguments: another thing's result."""
    NONDETERMINISTIC = "nondeterministic"
    """The same call after the same calls in the same scenario: the tool itself answered differently. No cache could know."""
    STALE_STATE = "stale_state"
    """The same call, recorded in another state."""


@dataclass(frozen=True, slots=True)
class Served:
    """The circumstances of a call, of the replayed one or of the recording that answered it."""

    key: bytes
    """Of tool and canonical arguments."""
    situation: bytes
    """Digest of the scenario and of the calls so far that may have changed something."""


_VOLATILE = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\b"), "<time>"),
    (re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{16,}\b", re.I), "<hex>"),
    (re.compile(r"\b1[0-9]{9}(?:[0-9]{3})?\b"), "<epoch>"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|µs|us|s|sec|seconds)\b"), "<duration>"),
)


def false_hit(served: ToolResult, true: ToolResult, recording: Served | None, asked: Served) -> FalseHit:
    """The kind of a hit that is known to be false. `recording` is None where nobody knows where the answer came from."""
    if served.is_error != true.is_error:
        return FalseHit.ERROR_TO_SUCCESS if true.is_error else FalseHit.SUCCESS_TO_ERROR
    if _without_volatile(served.content) == _without_volatile(true.content):
        return FalseHit.VOLATILE_ONLY
    if recording is not None and recording.key != asked.key:
        return FalseHit.WRONG_ENTITY
    if recording is not None and recording.situation == asked.situation:
        return FalseHit.NONDETERMINISTIC
    return FalseHit.STALE_STATE


def _without_volatile(content: Any) -> bytes:
    return result_digest(_masked(content), False, None)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        for pattern, name in _VOLATILE:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, dict):
        return {name: _masked(inner) for name, inner in value.items()}
    return [_masked(inner) for inner in value] if isinstance(value, list) else value


def counted(kinds: Iterable[FalseHit]) -> dict[str, int]:
    """How many of each kind, in the order of their names; kinds that did not occur are left out."""
    found = list(kinds)
    return {kind.value: found.count(kind) for kind in sorted(set(found))}
