"""Every number of the demo, in one place: the world's tasks, the flaws of the recordings, and the recipe of the tiny policy.

The shares are fixed here before any result is seen; nothing reads them from the recordings. No torch: the trainer takes its parameters
from these values, it does not share code with them. `SIZES` names the settings that a run can choose from; a recipe's fields are those of
the main job's plan, whose job specs say what each means.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cacherl.api.trainer import ModelSpec, TokenizerSpec

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
    analytical: Share = 0.24
    """Of the turns that call a tool: the turn says in its content why (the verbatim case of the thinking pipeline). With the final answers,
    which never do, that is 17 to 18 % of all assistant turns."""


class DataSettings(Settings):
    """How many towns, tasks and recordings there are."""

    seed: int = 1
    towns: int = Field(default=240, ge=1, le=500)
    """Training towns. Many, because a policy that sees few distinct tasks often learns their values by heart instead of copying."""
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
    trials: int = Field(default=2, ge=1)
    """Recordings of each training task."""
    validation_trials: int = Field(default=2, ge=1)
    """Recordings of each validation task, in a cache that training never sees."""
    unrecorded: Share = 0.12
    """Of the training tasks: all their recordings are absent from the training cache (SFT still sees them as demonstrations)."""
    flaws: FlawShares = FlawShares()


class BudgetSettings(Settings):
    """When training ends, in wall-clock seconds or steps."""

    seconds: float | None = None
    steps: int | None = None


class PlateauSettings(Settings):
    """What ends SFT before its budget: the loss on training tasks that are watched and not trained on falls no more."""

    every_steps: int = 500
    patience: int = 3
    min_improvement: float = 0.001
    """Nats a token."""
    held_back: int = 64


class SftSettings(Settings):
    """SFT: generic copying first, then the demonstrations."""

    budget: BudgetSettings = BudgetSettings(seconds=150)
    plateau: PlateauSettings | None = PlateauSettings()
    copying_seconds: float = 20
    """The tiny policy's pre-training: random segments repeated in another order."""
    optimizer: str = "muon"
    learning_rate: float = 2e-3
    """AdamW's: embeddings and vectors."""
    matrix_learning_rate: float = 2e-2
    """Muon's: matrices."""
    batch_size: int = 4
    max_length: int = 640
    constant_share: Share = 0.5
    final_share: Share = 0.05
    turns_only_share: Share = 0.33
    threads: int = 1


class LimitSettings(Settings):
    """What ends an episode. The longest reference makes five calls."""

    max_turns: int = 8
    max_tokens: int = 300
    """After the prompt, injected tokens included. The longest of 300 demonstrations, prompt and all, has 257."""
    max_result_tokens: int = 96


class SamplingSettings(Settings):
    """How turns are sampled."""

    temperature: float = 1.0
    max_tokens: int = 64


class GrpoSettings(Settings):
    """GRPO: the reward service's advantages through TRL. The rate falls linearly to `final_share` over the budget."""

    budget: BudgetSettings = BudgetSettings(seconds=200)
    tasks_per_step: int = 8
    group_size: int = 16
    """Bigger groups beat more tasks at the same number of episodes."""
    micro_batch: int = 8
    """Half a group: its rows share the prompt's keys and values, and shorter ones are not padded to the longest."""
    learning_rate: float = 1.5e-3
    """Three orders above that of a large model with adapters: all parameters of a tiny one are trained."""
    final_share: Share = 0.1
    clip: float = 0.2
    kl: float = 0.0
    limits: LimitSettings = LimitSettings()
    sampling: SamplingSettings = SamplingSettings()
    threads: int = 1


class RejectSettings(Settings):
    """The policy's own accepted episodes, added to the accepted demonstrations."""

    episodes_per_task: int = 1
    max_tasks: int | None = 256
    limits: LimitSettings = LimitSettings()
    sampling: SamplingSettings = SamplingSettings()


class EvaluateSettings(Settings):
    """Held-out tasks for every policy, the same seeds for each."""

    max_tasks: int | None = 200
    samples: int = 4
    cached_samples: int = 1
    cached_tasks: int | None = 60
    greedy: bool = True
    limits: LimitSettings = LimitSettings()
    sampling: SamplingSettings = SamplingSettings()


class Continued(Settings):
    """SFT continued, and SFT on accepted demonstrations: the seconds that GRPO gets, without another warm-up."""

    budget: BudgetSettings = BudgetSettings(seconds=200)
    plateau: None = None
    copying_seconds: float = 0
    turns_only_share: Share = 0


class Recipe(Settings):
    """How the tiny policy is made and measured. The fields are those of the main job's plan."""

    rows: list[str] = ["base", "sft", "sft_continued", "sft_accepted", "grpo", "recipe"]
    tokenizer: TokenizerSpec = TokenizerSpec(vocab_size=2048, boilerplate=True, phrases=256)
    """Nearly every value of the world is one token; so are the fixed pieces of the tool schemas, and what demonstrations repeat word for
    word between values. About 1,940 tokens come out; a demonstration has 167 on average, 325 without the phrases."""
    model: ModelSpec = ModelSpec(hidden=96, layers=3, heads=4, kv_heads=4, head_dim=24, feed_forward=288, context=1024, embedding_std=0.1)
    """Three layers of width 96. Of key-value heads four, the only number tried together with wider initial embeddings (their standard
    deviation 0.1), where copying came earliest. With the usual 0.02, four were no better than two after 600 steps."""
    sft: SftSettings = SftSettings()
    continued: Continued = Continued()
    reject: RejectSettings = RejectSettings()
    grpo: GrpoSettings = GrpoSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


class DemoSettings(Settings):
    """One size of the demo."""

    data: DataSettings = DataSettings()
    recipe: Recipe = Recipe()


def _smoke() -> DemoSettings:
    """Seconds instead of minutes: every part runs, nothing is learnt."""
    evaluate = EvaluateSettings(max_tasks=12, samples=1, cached_samples=1)
    return DemoSettings(
        data=DataSettings(towns=8, validation_towns=2),
        recipe=Recipe(
            sft=SftSettings(budget=BudgetSettings(steps=20), copying_seconds=1),
            continued=Continued(budget=BudgetSettings(steps=5)),
            reject=RejectSettings(max_tasks=8),
            grpo=GrpoSettings(budget=BudgetSettings(steps=2), tasks_per_step=2, group_size=4, micro_batch=8),
            evaluate=evaluate,
        ),
    )


def _full() -> DemoSettings:
    """Twice the standard training time."""
    return DemoSettings(
        recipe=Recipe(
            sft=SftSettings(budget=BudgetSettings(seconds=300), copying_seconds=30),
            continued=Continued(budget=BudgetSettings(seconds=400)),
            grpo=GrpoSettings(budget=BudgetSettings(seconds=400)),
        )
    )


SIZES: dict[str, DemoSettings] = {"smoke": _smoke(), "standard": DemoSettings(), "full": _full()}
"""What a run can choose from."""
