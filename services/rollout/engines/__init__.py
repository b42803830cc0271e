"""Clients of the engines, behind `cacherl.engine.Engine`. HTTP only: nothing here imports a model, torch or `services.engine`."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cacherl.engine import Engine
from services.rollout.engines.embedded import EmbeddedEngine
from services.rollout.engines.sglang import SGLangEngine


class EngineKind(StrEnum):
    """Which engine answers at the address."""

    EMBEDDED = "embedded"
    """`services.engine.embedded`: small policies on a CPU."""
    SGLANG = "sglang"
    """An SGLang server."""


class EngineConfig(BaseModel):
    """Where the engine is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: EngineKind
    url: str = Field(pattern=r"^https?://")
    weights_root: Path | None = None
    """The shared weights root, as this process and SGLang both see it; the embedded engine knows its own."""


def open_engine(config: EngineConfig) -> Engine:
    """A client of the engine that `config` names; inside a running event loop. Nothing is sent yet.

    Raises:
        ValueError: SGLang without a weights root.
    """
    if config.kind is EngineKind.EMBEDDED:
        return EmbeddedEngine(config.url)
    if config.weights_root is None:
        raise ValueError("an SGLang engine needs weights_root: the directory that policy paths are relative to")
    return SGLangEngine(config.url, config.weights_root)


__all__ = ["EngineConfig", "EngineKind", "open_engine"]
