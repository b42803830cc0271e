"""The reward service's settings: which judges there are. No caller can name a URL, only a judge of this configuration."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, StringConstraints, field_validator

from cacherl.reward import FACTS
from services.kit.settings import ServiceSettings

JudgeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class LlmJudgeSettings(BaseModel):
    """One judge behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: HttpUrl
    """Base address, such as `https://host/v1`; `/chat/completions` is added."""
    model: str = Field(min_length=1)
    api_key: SecretStr | None = None
    concurrency: int = Field(default=8, ge=1, le=256)
    """Calls in flight from one process."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Pace of one process; None does not pace."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Of one call."""
    patience_s: float = Field(default=120.0, gt=0)
    """How long one vote may wait and be asked again before the judge counts as away."""
    attempts: int = Field(default=4, ge=1, le=10)
    """Times a vote is asked for before the judge counts as away."""
    max_tokens: int = Field(default=2048, ge=16)
    """Tokens of a reply, the judge's own thinking included."""


class RewardSettings(ServiceSettings):
    """What the reward service needs to know besides what every service does."""

    judges: dict[JudgeName, LlmJudgeSettings] = {}
    """LLM judges by name; `facts` is always there."""

    max_episodes: int = Field(default=4096, ge=1)
    """Episodes of one request."""

    max_calls: int = Field(default=256, ge=1)
    """Calls of one episode, and reference calls of one task: aligning them costs their product."""

    max_facts: int = Field(default=256, ge=1)
    """Values and aliases of the facts of one task."""

    rollout_timeout_s: float = Field(default=30.0, gt=0)
    """How long the rollout service may take to send episodes."""

    @field_validator("judges")
    @classmethod
    def _facts_is_taken(cls, judges: dict[str, LlmJudgeSettings]) -> dict[str, LlmJudgeSettings]:
        if FACTS in judges:
            raise ValueError(f"the name `{FACTS}` belongs to the deterministic judge")
        return judges
