"""How far training is, and what follows from it: the learning rate, and the end.

Progress is the larger of two shares, steps taken ÷ steps allowed and seconds trained ÷ seconds allowed, so a budget in seconds has the
same schedule as one in steps. Seconds of evaluation and saving do not count. A resumed run goes on where the clock stood.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from cacherl.api.trainer import Budget

WARM_UP_STEPS = 20


def rate_factor(progress: float, *, constant_share: float, final_share: float) -> float:
    """1 for the first `constant_share` of the budget, then linear to `final_share` at its end."""
    if progress <= constant_share or constant_share >= 1:
        return 1.0
    fallen = min(1.0, (progress - constant_share) / (1 - constant_share))
    return 1.0 - (1.0 - final_share) * fallen


@dataclass
class Clock:
    """Counts the steps and the seconds of training against a budget."""

    budget: Budget
    steps: int = 0
    before_s: float = 0.0
    """Seconds trained before this start of the process."""
    _started: float | None = field(default=None, repr=False)

    def start(self) -> None:
        """Lets the seconds run."""
        if self._started is None:
            self._started = time.perf_counter()

    def stop(self) -> None:
        """Holds the seconds."""
        self.before_s, self._started = self.seconds, None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as training."""
        running = self._started is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()

    @property
    def seconds(self) -> float:
        """Seconds trained so far."""
        return self.before_s + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def progress(self) -> float:
        """Share of the budget that is used up, 0…1; 0 where there is no budget."""
        steps = self.steps / self.budget.steps if self.budget.steps else 0.0
        seconds = self.seconds / self.budget.seconds if self.budget.seconds else 0.0
        return min(1.0, max(steps, seconds))

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.progress >= 1.0


def scheduler(
    optimizer: torch.optim.Optimizer, clock: Clock, *, constant_share: float, final_share: float, warm_up: int = WARM_UP_STEPS
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler that asks the clock, after a linear warm-up of the first steps."""

    def factor(_: int) -> float:
        warm = min(1.0, (clock.steps + 1) / warm_up) if warm_up else 1.0
        return warm * rate_factor(clock.progress, constant_share=constant_share, final_share=final_share)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
