"""What live modes tell of themselves (method §3.6)."""

from typing import Literal

from cacherl.tier import ToolResult
from cacherl.wire import Json, Time, Wire


class DivergenceExample(Wire):
    """The last call of a tool whose live answer differed from the one that was served."""

    arguments: dict[str, Json]
    scenario: str
    entry: str
    """The recording that was served."""
    live: ToolResult
    seen_at: Time


class ToolDivergence(Wire):
    """How often one tier's answers for one tool differed from the live ones, after normalisation and with volatile fields masked."""

    tool: str
    tier: Literal["exact", "fuzzy", "best_effort"]
    compared: int
    diverged: int
    failed: int
    """Live calls without an answer that could be compared: the server was away, or failed in passing."""
    rate: float | None
    """diverged ÷ compared; null where nothing was compared."""
    interval: tuple[float, float]
    """95 % Clopper-Pearson interval of the rate."""
    example: DivergenceExample | None = None


class Divergence(Wire):
    """What mode `shadow` found, by tool and tier; those that differ most often first."""

    items: list[ToolDivergence]
