"""The report's JSON (contracts §7), stable and versioned by `schema`."""

from typing import Any, Literal

from pydantic import Field

from cacherl.intervals import Ci
from cacherl.wire import Wire

SCHEMA = "cacherl.report/1"


class PolicyRow(Wire):
    """One policy's results. Null where there is nothing to measure with (real logs have no live tools)."""

    tasks: int
    success: Ci | None
    success_greedy: Ci | None
    cached_success: Ci | None
    cached_success_in_cache: Ci | None
    process_accuracy: Ci | None
    call_f1: Ci | None
    answer: Ci | None
    validation_reward: Ci | None
    turns: float
    tokens: float


class Pair(Wire):
    """a − b on the same tasks and seeds."""

    a: str
    b: str
    metric: str
    difference: Ci


class CacheRow(Wire):
    """The cache that answered the cached evaluation."""

    entries: int
    hit_rate: float
    false_hit_rate: float | None
    against: Literal["live", "held-out recordings"]
    by_tier: dict[str, dict[str, int]] = {}
    curve: list[dict[str, float]] = []
    calibration: list[dict[str, Any]] = []


class LiveCalls(Wire):
    """The world's own count."""

    while_training: int | None
    evaluating: int | None
    served_from_cache: int
    recorded: int


class Cost(Wire):
    """What it cost."""

    tokens_sampled: int
    tokens_trained: int
    compute_s: float
    per_point_of_success: dict[str, float] | None
    """Compute seconds per percentage point of live success gained over SFT, by policy."""


class TimeSpent(Wire):
    """Seconds; `total` is all after installation."""

    install: float | None
    total: float
    stages: dict[str, float]
    spans: list[dict[str, Any]] = []
    """Each job's start and end, for the picture."""


class Report(Wire):
    """What a run found."""

    schema_: Literal["cacherl.report/1"] = Field(default=SCHEMA, alias="schema")
    versions: dict[str, str]
    config: dict[str, Any]
    data: dict[str, Any]
    policies: dict[str, PolicyRow]
    paired: list[Pair]
    tiers: dict[str, float]
    """Shares over the policies' cached evaluation."""
    training_tiers: dict[str, float] = {}
    """Shares over GRPO's training rollouts."""
    cache: CacheRow
    live_calls: LiveCalls
    cost: Cost
    time_s: TimeSpent
    steps: list[dict[str, Any]]
    """GRPO's metrics, one record a step."""
    losses: list[dict[str, Any]] = []
    """SFT's metrics."""
    notes: list[str]

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}
