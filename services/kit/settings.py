"""Settings that every service has.

Owned here: one environment prefix (`CACHERL_`), one way to give a secret without putting it in the environment
(`CACHERL_<NAME>_FILE` names a file whose content is the value). Services subclass `ServiceSettings` and add fields;
nothing else reads the environment.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cacherl.errors import UsageError

ENVIRONMENT_PREFIX = "CACHERL_"
MEBIBYTE = 1024 * 1024


class LogFormat(StrEnum):
    """How log lines are written."""

    JSON = "json"
    """One JSON object a line: for machines."""

    CONSOLE = "console"
    """Coloured text: for people."""


class FileSource(PydanticBaseSettingsSource):
    """Reads a field's value from the file that `CACHERL_<NAME>_FILE` names; surrounding white space is cut off."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The content of the file, or None where no file is named."""
        variable = f"{ENVIRONMENT_PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(variable)
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{variable} names a file that cannot be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """Every field that has a file."""
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, complex_value = self.get_field_value(field, name)
            if value is not None:
                values[key] = self.prepare_field_value(name, field, value, complex_value)
        return values


class ServiceSettings(BaseSettings):
    """What every service needs to know; the order is: arguments, environment, files."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    database_url: str = Field(repr=False)
    """Connection string of the role `cacherl_app`: row-level security is forced upon it."""

    owner_database_url: str | None = Field(default=None, repr=False)
    """Connection string of the role `cacherl_owner`, for migrations only; a service does not need it."""

    indexer_database_url: str | None = Field(default=None, repr=False)
    """Connection string of the role `cacherl_indexer`, which may own a table to build indexes on it."""

    database_pool: int = Field(default=10, ge=1, le=200)
    """Connections that one process may hold."""

    pepper: SecretStr
    """Secret under which API keys are hashed; the same for all services, at least 32 characters."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

    cache_api_url: str = "http://127.0.0.1:8001"
    rollout_url: str = "http://127.0.0.1:8002"
    reward_url: str = "http://127.0.0.1:8003"
    trainer_url: str = "http://127.0.0.1:8004"

    broker_url: str = Field(default="pgmq://", repr=False)
    """Celery's broker; `pgmq://` is the queue in Postgres and takes its address from `broker_dsn`."""

    broker_dsn: str | None = Field(default=None, repr=False)
    """Connection string of the database that holds pgmq."""

    shared_root: Path = Path(".cacherl/shared")
    """Folder that the services share: weights, datasets, artifacts."""

    log_level: str = "INFO"
    log_format: LogFormat = LogFormat.JSON

    max_body_bytes: int = Field(default=64 * MEBIBYTE, ge=1)
    """Largest body that is read; a route may set its own with `max_body_size=`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files: no .env file is looked for."""
        return init_settings, env_settings, FileSource(settings_cls)
