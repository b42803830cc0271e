"""Counts of a rollout: what `GET /v1/rollouts/{id}` says without reading an episode."""

from dataclasses import dataclass, field
from typing import Any

from cacherl.episode import Episode, EpisodeStatus


@dataclass(slots=True)
class Tallies:
    """Sums over the episodes written so far."""

    tokens_sampled: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    """By outcome."""
    seconds: dict[str, float] = field(default_factory=dict)
    """`engine` and `tools`: waited for, summed over episodes that ran side by side."""
    failed: int = 0
    """Episodes that must not be scored."""

    def add(self, episode: Episode) -> None:
        """Counts one."""
        self.failed += episode.status is EpisodeStatus.FAILED
        for turn in episode.turns:
            self.tokens_sampled += turn.end - turn.start
            for call in turn.calls:
                self.calls[call.outcome.value] = self.calls.get(call.outcome.value, 0) + 1
            self.seconds["engine"] = self.seconds.get("engine", 0.0) + turn.seconds.engine
            self.seconds["tools"] = self.seconds.get("tools", 0.0) + turn.seconds.tools

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        return {"tokens_sampled": self.tokens_sampled, "calls": self.calls, "seconds": self.seconds, "failed": self.failed}
