"""The reward API's shapes (contracts §5)."""

from pydantic import Field, model_validator

from cacherl.api.common import Document
from cacherl.episode import Episode
from cacherl.score import Estimator, RewardConfig, Score
from cacherl.tier import Preset
from cacherl.trajectory import Task
from cacherl.wire import Wire


class ScoreRequest(Wire):
    """Episodes to score, given whole or by id; tasks by content hash beside them."""

    episodes: list[Episode] = []
    episode_ids: list[str] = []
    """Read from the rollout service with the caller's own rights."""
    tasks: list[Task] = []
    """The tasks of `episodes`, matched by `Episode.task` (content hash)."""
    preset: Preset | None = None
    config: RewardConfig | None = None

    @model_validator(mode="after")
    def _one_configuration(self) -> "ScoreRequest":
        if self.preset is not None and self.config is not None:
            raise ValueError("give a preset or a config, not both")
        if not self.episodes and not self.episode_ids:
            raise ValueError("no episodes")
        return self

    @property
    def resolved(self) -> RewardConfig:
        """The configuration in force."""
        return self.config or RewardConfig(preset=self.preset or "robust")


class ScoreAnswer(Wire):
    """One score per episode, in order."""

    config_hash: str
    scores: list[Score]


class Group(Wire):
    """The scores of one task's episodes."""

    task_id: str
    scores: list[Score] = Field(min_length=1)


class AdvantageRequest(Wire):
    """Groups whose advantages are wanted."""

    groups: list[Group] = Field(min_length=1)
    preset: Preset | None = None
    config: RewardConfig | None = None
    config_hash: str
    """Of the scores; another configuration's is refused."""
    estimator: Estimator | None = None
    """Default: `attributed` for robust, `std` for paper."""

    @property
    def resolved(self) -> RewardConfig:
        """The configuration in force."""
        return self.config or RewardConfig(preset=self.preset or "robust")


class GroupAdvantages(Wire):
    """advantages_G, null where an episode was not scored, and what to look at."""

    task_id: str
    advantages: list[float | None]
    diagnostics: dict[str, float | int | str | None] = {}


class AdvantageAnswer(Wire):
    """Advantages of all groups and the batch's alarms."""

    estimator: Estimator
    groups: list[GroupAdvantages]
    diagnostics: dict[str, float | int | str | None] = {}
    alarms: list[str] = []


class Presets(Wire):
    """The named configurations."""

    presets: dict[str, RewardConfig]
    hashes: dict[str, str]
    judges: list[str]
    extras: Document = {}
