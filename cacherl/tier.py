"""How a call was answered: tiers, outcomes, and the answer with its provenance (method §1, §3.4).

The cache never lies about its tier, never invents a result and never overwrites one; every answer says where it came from.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from cacherl.wire import Json, Time, Wire


class Tier(StrEnum):
    """How near the recording that answered was to the call. Ordered: exact > fuzzy > best_effort > miss."""

    EXACT = "exact"
    """The full key matches: scenario, scoped state, tool, canonical arguments."""
    FUZZY = "fuzzy"
    """Same tool, scenario and scoped state; arguments alike, no identifier differs."""
    BEST_EFFORT = "best_effort"
    """Same tool; the nearest recorded call."""
    MISS = "miss"
    """No recording may answer; the policy reads a typed message."""

    @property
    def rank(self) -> int:
        """0 for exact … 3 for miss: larger is worse."""
        return _RANKS[self]


_RANKS = {Tier.EXACT: 0, Tier.FUZZY: 1, Tier.BEST_EFFORT: 2, Tier.MISS: 3}


class CallOutcome(StrEnum):
    """A tier, or one of the two ways in which a call is the policy's own fault."""

    EXACT = "exact"
    FUZZY = "fuzzy"
    BEST_EFFORT = "best_effort"
    MISS = "miss"
    UNKNOWN_TOOL = "unknown_tool"
    """The name is not in the task's tool list."""
    MALFORMED = "malformed"
    """The call could not be parsed, or its arguments are not an object."""

    @property
    def tier(self) -> Tier | None:
        """The tier, None where the call never reached the cache."""
        return None if self in (CallOutcome.UNKNOWN_TOOL, CallOutcome.MALFORMED) else Tier(self.value)


class MissReason(StrEnum):
    """Why a call that no recording answers was not made live either."""

    BUDGET = "budget_used_up"
    """The run has made as many live calls as it may."""
    NOT_TRUE = "not_true_live"
    """The live session lacks an earlier change that this call's result depends on: it was answered from a recording."""
    UNKNOWN = "unknown_change"
    """An earlier change that this call's result depends on has no known result."""


class EntryRef(Wire):
    """The recording that answered."""

    id: str
    source: str
    """Id of the trajectory (or live run) it was recorded in."""
    step: int
    recorded_at: Time | None = None


class Agreement(Wire):
    """Whether the recording's circumstances were the call's. None as a whole in preset `paper`, which does not look."""

    scenario: bool
    state: bool
    schema_: bool = Field(alias="schema")

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}


class ToolResult(Wire):
    """What a tool gave back."""

    content: Json
    is_error: bool = False


class LookupResult(Wire):
    """One call's answer with its provenance."""

    outcome: CallOutcome
    result: ToolResult
    """A miss has a readable text and `is_error` true."""
    similarity: float | None = Field(default=None, ge=0, le=1)
    fidelity: float | None = Field(default=None, ge=0, le=1)
    """Estimated probability that a live tool would have returned an equivalent result."""
    entry: EntryRef | None = None
    agreement: Agreement | None = None
    mutating: bool = False
    age_s: float | None = None
    live: bool = False
    miss: MissReason | None = None
    """Mode `fallthrough`: why a miss was not asked live."""
    explain: dict[str, Json] | None = None


Preset = Literal["robust", "paper"]
"""`paper`: the stated recipe; `robust`: the same system with the recipe's known faults fixed (method, head)."""
