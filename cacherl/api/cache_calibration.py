"""What a calibration says: probabilities by similarity, risks by pool, the curve (method §3.5)."""

from typing import Literal

from cacherl.wire import Wire

Calibrated = Literal["exact", "fuzzy", "best_effort"]


class CurvePoint(Wire):
    """Coverage and false hits at one threshold."""

    threshold: float
    coverage: float
    """Share of the replayed calls that would be answered."""
    false_hit_rate: float
    """Share of the replayed calls that would be answered wrongly."""
    bound: float = 1.0
    """95 % upper bound of that share, the task being the unit."""


class FidelityStep(Wire):
    """From this similarity on, this probability that a hit is right; the next step's is at least as high."""

    similarity: float
    fidelity: float


class PoolCalibration(Wire):
    """What a pool of tools has earned at one tier: the risk is false hits ÷ replayed calls, the unit is the task."""

    pool: str
    """Kind of tool and class of its arguments: `read/text`."""
    tier: Literal["fuzzy", "best_effort"]
    tools: int
    calls: int
    tasks: int
    false_hits: int
    """Of the calls that would be answered at the threshold, exact ones among them; at the strictest one where nothing is earned."""
    bound: float
    """95 % upper bound of the risk there."""
    earned: bool
    threshold: float | None
    n_required: int | None
    """Tasks that it takes at the observed share of false ones; null where it is earned, or nothing could be compared."""
    within_task: bool = False
    """Some scenarios belong to one task alone: single recordings left instead of tasks, which flatters the estimate."""
