"""Every number of the demo, in one place: the world's tasks, the flaws of the recordings, and the recipe of the tiny policy.

The shares are fixed here before any result is seen; nothing reads them from the recordings. No torch: the trainer takes its parameters
from these values, it does not share code with them.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A group of settings: frozen, and unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FlawShares(Settings):
    """How the demonstrator errs. One draw per recording."""

    habit: Share = 0.65
    """Of the recordings of the habit kinds: the last look-up is skipped and its result made up."""
    elsewhere: Share = 0.20
    """Of all other recordings, and of the habit kinds' recordings that the habit spared: one of four flaws, each as likely."""
    analytical: Share = 0.18
    """Of the assistant turns that call a tool: the turn says in its content why (the verbatim case of the thinking pipeline)."""


class DataSettings(Settings):
    """How many towns, tasks and recordings there are."""

    seed: int = 1
    towns: int = Field(default=80, ge=1, le=500)
    """Training towns."""
    validation_towns: int = Field(default=17, ge=1, le=500)
    roster: dict[str, int] = {
        "orders.status": 2,
        "orders.refund": 2,
        "calendar.details": 1,
        "calendar.move": 1,
        "calendar.move_key": 1,
        "calendar.key": 2,
        "accounts.balance": 1,
        "accounts.rate": 1,
        "accounts.convert": 2,
        "handbook.fee": 3,
        "handbook.desk": 2,
    }
    """Tasks of each kind in one town: 18."""
    habit_kinds: tuple[str, ...] = ("calendar.key", "accounts.convert")
    trials: int = Field(default=3, ge=1)
    """Recordings of each training task."""
    validation_trials: int = Field(default=2, ge=1)
    """Recordings of each validation task, in a cache that training never sees."""
    unrecorded: Share = 0.12
    """Of the training tasks: all their recordings are absent from the training cache (SFT still sees them as demonstrations)."""
    flaws: FlawShares = FlawShares()
