"""What evaluating one policy found: per task and per episode, so that intervals and paired differences can be computed afterwards.

The artifact `evaluation.json` of an `evaluate` job is one `Evaluation`. Vectors are over the K episodes of a task, in order of their index;
every policy sees the same tasks and seeds, so entry k of two policies' vectors is a pair. A failed episode (infrastructure) is null in all.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from cacherl.engine import PolicyVersion
from cacherl.wire import Wire

SCHEMA = "cacherl.evaluation/1"


class Way(StrEnum):
    """How the tasks were run."""

    LIVE = "live"
    """Live tools, sampled at temperature 1: the headline."""
    LIVE_GREEDY = "live_greedy"
    CACHED = "cached"
    """From a cache that lacks the task's own recordings (they are excluded as sources)."""
    CACHED_IN = "cached_in"
    """From the same cache with them."""


class TaskOutcome(Wire):
    """One task's K episodes."""

    task_id: str
    success_K: list[float | None]
    """The world's own goal check, 1 or 0; null where there is none."""
    process_accuracy_K: list[float | None]
    call_f1_K: list[float | None]
    answer_K: list[float | None]
    """R_answer."""
    reward_K: list[float | None]
    """The total reward."""


class WayResult(Wire):
    """All tasks, run one way."""

    tasks: list[TaskOutcome]
    episodes: int
    failed: int
    outcomes: dict[str, int]
    """Calls by outcome."""
    stop_reasons: dict[str, int]
    mean_turns: float
    mean_tokens: float
    """Sampled tokens an episode."""
    seconds: float


class Served(Wire):
    """Cached answers held against the live world: the same calls made again in a fresh session."""

    calls: int = 0
    false_hits: int = 0


class Evaluation(Wire):
    """What one policy did."""

    schema_: Literal["cacherl.evaluation/1"] = Field(default=SCHEMA, alias="schema")
    policy: PolicyVersion
    ways: dict[Way, WayResult]
    served: dict[str, Served] = {}
    """By tier; empty where there is no live world."""
    live_calls: int = 0
    """Calls that live tools answered while this was evaluated."""
    tokens_sampled: int = 0
    seconds: float = 0.0

    model_config = {**Wire.model_config, "populate_by_name": True, "serialize_by_alias": True}
