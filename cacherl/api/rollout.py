"""The rollout API's shapes (contracts §4)."""

from typing import Literal

from pydantic import Field

from cacherl.api.cache import Mode, Select
from cacherl.api.common import Problem, Progress
from cacherl.engine import EngineInfo, PolicyVersion
from cacherl.jobs import JobState
from cacherl.tier import Preset
from cacherl.trajectory import Task
from cacherl.wire import Time, Wire

Thinking = Literal["never", "after_tool", "on_budget"]
"""When the thinking block after a tool result is pre-closed (method §4.5)."""


class Limits(Wire):
    """What ends an episode; each is a typed stop reason (method §4.7)."""

    max_turns: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=4096, ge=1)
    """Of the whole episode after its prompt, injected tokens included."""
    max_calls: int = Field(default=64, ge=1)
    max_result_tokens: int = Field(default=1024, ge=8)
    """Of one tool result; longer ones are cut with a visible marker."""
    call_seconds: float = Field(default=30.0, gt=0)
    episode_seconds: float = Field(default=600.0, gt=0)
    repeated_calls: int = Field(default=3, ge=2)
    """So many identical calls in a row end the episode."""
    malformed_calls: int = Field(default=3, ge=1)
    """So many malformed calls in a row end the episode."""


class RolloutSampling(Wire):
    """How turns are sampled."""

    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    """Of one turn."""
    min_tokens_first_turn: int = Field(default=0, ge=0)
    """Preset `paper` uses 150 (method §4.6)."""


class RolloutCreate(Wire):
    """Tasks × group size, pinned to a cache; nulls are resolved on acceptance and recorded."""

    cache: str
    """Id or name."""
    revision: int | None = None
    view: str | None = None
    as_of: Time | None = None
    select: Select = "majority"
    mode: Mode = "replay"
    budget: int | None = Field(default=None, ge=0)
    """Live calls that the rollout may make in all, in the modes `fallthrough` and `shadow`; null: as the cache's settings say."""
    policy: PolicyVersion
    tasks: list[Task] = Field(min_length=1, max_length=4096)
    group_size: int = Field(default=1, ge=1, le=256)
    seed: int = 0
    preset: Preset = "robust"
    limits: Limits = Limits()
    sampling: RolloutSampling = RolloutSampling()
    thinking: Thinking = "on_budget"


class Rollout(Wire):
    """A rollout and how far it is."""

    id: str
    state: JobState
    progress: Progress
    cache: str
    revision: int
    view: str
    as_of: Time
    mode: Mode
    policy: PolicyVersion
    group_size: int
    seed: int
    preset: Preset
    reason: Problem | None = None
    created_at: Time
    finished_at: Time | None = None
    tokens_sampled: int = 0
    calls: dict[str, int] = {}
    """Calls by outcome."""
    seconds: dict[str, float] = {}


class PolicyPublish(Wire):
    """Weights to hold: a directory with config, tokenizer, template and safetensors, below the shared weights root."""

    name: str = Field(min_length=1, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: int = Field(ge=0)
    kind: Literal["adapter", "full"] = "full"
    path: str
    """Relative to the shared weights root."""
    sha256: str
    """Of `model.safetensors`."""


class Policy(Wire):
    """A published policy version."""

    name: str
    version: int
    kind: Literal["adapter", "full"]
    path: str
    sha256: str
    state: JobState


class EngineStatus(Wire):
    """The engines behind the service."""

    engines: list[EngineInfo]
    away: list[str] = []
