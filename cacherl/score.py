"""Scores: what the reward service says of an episode, and the configuration it said it under (method §5, contracts §5)."""

import hashlib
from enum import StrEnum
from typing import Literal

import orjson
from pydantic import Field

from cacherl.tier import Preset, Tier
from cacherl.wire import Wire


class Estimator(StrEnum):
    """How scores of a group become advantages."""

    ATTRIBUTED = "attributed"
    """Blame is the lowest fidelity among the clean reference calls: the default of `robust`."""
    SPLIT = "split"
    """Blame equals trust."""
    ASYMMETRIC = "asymmetric"
    """Full blame."""
    CENTRED = "centred"
    """The total minus its group's mean."""
    STD = "std"
    """The paper's GRPO: centred and divided by the standard deviation."""


class RewardConfig(Wire):
    """Everything that decides a score. Two scores are comparable only where their hashes agree."""

    preset: Preset = "robust"
    answer_weight: float = Field(default=0.60, ge=0, le=1)
    """`robust`: w."""
    alpha: dict[str, float] = {"exact": 0.60, "fuzzy": 0.30, "best_effort": 0.10, "miss": 0.10, "none": 0.60}
    """`paper`: α by the worst tier of the episode; `none` where no call was made."""
    process_weights: dict[str, float] = {}
    """Weight of each process term; empty: those of the preset."""
    judge: str = "facts"
    """Name of a judge in the service's configuration."""
    judge_votes: int = Field(default=1, ge=1, le=9)
    low_trust: float = Field(default=0.1, ge=0, le=1)
    """Episodes with ρ below this are counted; above one half of a batch an alarm is logged."""

    @property
    def config_hash(self) -> str:
        """sha256 of this configuration."""
        return hashlib.sha256(orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).hexdigest()


class ScoreStatus(StrEnum):
    """Whether there is a score."""

    SCORED = "scored"
    ABSTAINED = "abstained"
    """The judge gave no verdict: unscored, never 0."""
    UNSCORABLE = "unscorable"
    """Failed or cancelled: infrastructure is never a reward."""


class JudgeVotes(Wire):
    """What a judge said and cost."""

    name: str
    votes: list[int]
    """Ratings 0–5."""
    tokens: int = 0


class Score(Wire):
    """An episode's reward with every component, so that it can be re-scored and explained."""

    episode_id: str
    episode_hash: str
    status: ScoreStatus
    total: float | None = None
    r_answer: float | None = None
    r_process: float | None = None
    alpha: float | None = None
    """The weight that R_answer really got: `paper` by worst tier, `robust` w·ρ."""
    trust: float = 1.0
    """ρ."""
    blame: float = 1.0
    """β."""
    blame_reason: str = ""
    worst_tier: Tier | None = None
    terms: dict[str, float] = {}
    weights: dict[str, float] = {}
    clamps: list[str] = []
    reasons: list[str] = []
    judge: JudgeVotes | None = None


Mark = Literal["scored", "abstained", "unscorable"]
