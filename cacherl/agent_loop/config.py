"""What a run of the loop is told: everything that decides an episode besides its task, the engine and the cache."""

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from cacherl.api.cache import Mode
from cacherl.api.rollout import Limits, RolloutSampling, Thinking
from cacherl.engine import PolicyVersion
from cacherl.tier import Preset


def _new_id() -> str:
    return f"eps_{uuid.uuid4().hex}"


@dataclass(frozen=True)
class LoopConfig:
    """The run's configuration, resolved."""

    policy: PolicyVersion
    rollout: str = "rol_local"
    seed: int = 0
    preset: Preset = "robust"
    mode: Mode = "replay"
    limits: Limits = field(default_factory=Limits)
    sampling: RolloutSampling = field(default_factory=RolloutSampling)
    thinking: Thinking = "on_budget"
    concurrency: int = 256
    """Episodes in flight at once."""
    gather_s: float = 0.002
    """Turns (and lookups) that become ready within this time share one request."""
    new_id: Callable[[], str] = _new_id

    def turn_seed(self, task_id: str, index: int, turn: int) -> int:
        """The seed of one turn's draws, 31 bits: the same run, task, index and turn draw the same numbers on any machine."""
        text = "\x00".join((str(self.seed), task_id, str(index), str(turn)))
        return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4]) >> 1
