"""The cache service's settings."""

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from services.cache_api.live.spec import LiveServerSpec
from services.kit.settings import ServiceSettings

GIBIBYTE = 1 << 30


class EmbedderChoice(StrEnum):
    """What makes vectors of calls."""

    HASHING = "hashing"
    """Hashed character n-grams: deterministic, no model."""


class CacheSettings(ServiceSettings):
    """What the cache service needs to know besides what every service does."""

    live_servers: dict[str, str | LiveServerSpec] = {}
    """Live tool servers by name: no caller can name a URL. A bare URL is a server of kind `http`."""

    live_timeout_s: float = Field(default=30.0, gt=0)
    """How long a live tool server may take for one batch of calls."""

    live_lease_s: float = Field(default=3.0, gt=0)
    """After how long without a sign of life another may make a live call that somebody had begun to make for all."""

    embedder: EmbedderChoice = EmbedderChoice.HASHING

    memory_bytes: int = Field(default=64 << 20, ge=0)
    """How much of what was answered a process remembers; 0: nothing."""

    spool_dir: Path | None = None
    """Where an ingestion is spooled before it is committed; None is the system's folder for temporary files."""

    max_ingestion_bytes: int = Field(default=8 * GIBIBYTE, ge=1)
    """Largest NDJSON body of an ingestion: it is streamed, so memory does not bound it."""

    max_line_bytes: int = Field(default=16 << 20, ge=1)
    """Longest line of an ingestion."""

    job_poll_s: float = Field(default=2.0, gt=0)
    """How often a replica looks for jobs that it was not told of."""
