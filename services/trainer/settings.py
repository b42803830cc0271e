"""The trainer's settings, for the service, its workers and the processes that do the jobs."""

from psycopg.conninfo import make_conninfo
from pydantic import Field, SecretStr, field_validator

from services.kit.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """What the trainer needs to know besides what every service does."""

    live_servers: dict[str, str] = {}
    """Live tool servers by name; a job can name one, never its address. Only plain HTTP ones can check a goal; others are passed over."""

    @field_validator("live_servers", mode="before")
    @classmethod
    def _with_a_goal_check(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        plain = {
            name: one.get("url") if isinstance(one, dict) and one.get("kind", "http") == "http" else one for name, one in value.items()
        }
        return {name: one for name, one in plain.items() if not isinstance(one, dict)}

    lease_s: float = Field(default=30.0, gt=0)
    """How long a job stays its worker's without a sign of life; a third of it passes between two."""

    max_tries: int = Field(default=5, ge=1)
    """Workers that a job may lose before it counts as failed."""

    max_waiting_s: float = Field(default=3600.0, gt=0)
    """How long a job may wait for something that is away."""

    retry_s: float = Field(default=5.0, gt=0)
    """After how long a waiting job tries again."""

    reap_every_s: float = Field(default=5.0, gt=0)
    long_queued_s: float = Field(default=30.0, gt=0)
    """A job that stands queued for so long is rung for again: its message may never have been sent."""

    grace_s: float = Field(default=20.0, gt=0)
    """How long a job may take to save when it is asked to stop."""

    visibility_s: int = Field(default=30, ge=1)
    """After how long a message that nobody acknowledged is delivered again. Short: it only rings, the row decides."""

    delegation_s: float = Field(default=900.0, gt=0)
    """Lifetime of a job's credential; it is renewed while the job lives."""

    teacher_url: str | None = None
    """OpenAI-compatible endpoint of the teacher `llm`; null: only `provenance` is there."""
    teacher_model: str | None = None
    teacher_api_key: SecretStr | None = None

    max_part_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """Of one part of an upload."""
    max_parts: int = Field(default=4096, ge=1)

    @property
    def worker_dsn(self) -> str:
        """The database for workers and jobs: one that is stopped in the middle of a transaction does not hold its locks past a lease."""
        return make_conninfo(self.database_url, options=f"-c idle_in_transaction_session_timeout={int(self.lease_s * 1000)}")
