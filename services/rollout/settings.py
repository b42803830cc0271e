"""The rollout service's settings."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from services.kit.settings import ServiceSettings
from services.rollout.engines import EngineConfig, EngineKind


class RolloutSettings(ServiceSettings):
    """What the rollout service needs to know besides what every service does."""

    engines: list[EngineConfig] = []
    """Engines by kind and address; a bare address is an embedded engine. No caller can name a URL."""

    concurrent_rollouts: int = Field(default=4, ge=1, le=64)
    """Rollouts that one process plays at once."""

    concurrent_episodes: int = Field(default=256, ge=1, le=4096)
    """Episodes in flight of one rollout."""

    max_episodes: int = Field(default=65_536, ge=1)
    """Tasks × group size of one rollout."""

    lease_s: float = Field(default=30.0, gt=0)
    """After so long without a word from its owner a rollout is taken over."""

    beat_s: float = Field(default=5.0, gt=0)
    poll_s: float = Field(default=0.5, gt=0)
    """How often a replica looks for work, and a stream for episodes, that another replica made."""

    max_crashes: int = Field(default=3, ge=1)
    """So many owners may die over one rollout before it fails."""

    retry_s: float = Field(default=5.0, gt=0)
    """How long a rollout waits for an engine or a cache that is away before it tries again."""

    @field_validator("engines", mode="before")
    @classmethod
    def _addresses(cls, engines: Any) -> Any:
        if not isinstance(engines, list):
            return engines
        return [{"kind": EngineKind.EMBEDDED, "url": engine} if isinstance(engine, str) else engine for engine in engines]

    @property
    def weights_root(self) -> Path:
        """The folder that policy paths are relative to."""
        return self.shared_root / "weights"
