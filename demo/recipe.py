"""The demo's sizes: how much data, and the recipe of the tiny policy. Fixed here before any result is seen.

A recipe has fields of `cacherl.pipeline.plan.RunPlan`. Budgets are in seconds, so that the demo takes as long on a slow machine as on
a fast one; SFT continued and SFT on accepted data get what GRPO gets.
"""

from typing import Any

from pydantic import Field

from cacherl.api.trainer import ModelSpec, TokenizerSpec
from cacherl.pipeline.names import ROWS
from demo.config import DataSettings, Settings

LIMITS = {"max_turns": 8, "max_tokens": 480, "max_calls": 8, "max_result_tokens": 96}
SAMPLING = {"temperature": 1.0, "max_tokens": 96}


class Recipe(Settings):
    """How the policies are made and compared."""

    rows: list[str] = list(ROWS)
    tokenizer: TokenizerSpec = TokenizerSpec(vocab_size=2400, boilerplate=True)
    """Entities are one token each; the fixed pieces of the tool schemas' JSON too, which keeps prompts short."""
    model: ModelSpec = ModelSpec(context=1024)
    """Three layers, hidden 96: half a million parameters."""
    sft: dict[str, Any]
    continued: dict[str, Any]
    reject: dict[str, Any]
    grpo: dict[str, Any]
    evaluate: dict[str, Any]


class DemoSettings(Settings):
    """One size of the demo."""

    data: DataSettings = DataSettings()
    recipe: Recipe
    workers: int = Field(default=2, ge=1)


def _recipe(*, sft_s: float, copying_s: float, more_s: float, tasks: int, samples: int, reject_tasks: int, step: tuple[int, int]) -> Recipe:
    """A recipe of `sft_s` seconds of SFT and `more_s` seconds of whatever follows it."""
    playing = {"limits": LIMITS, "sampling": SAMPLING}
    return Recipe(
        sft={
            "budget": {"seconds": sft_s},
            "copying_seconds": copying_s,
            "optimizer": "muon",
            "learning_rate": 2e-3,
            "matrix_learning_rate": 2e-2,
            "batch_size": 4,
            "max_length": 1024,
            "turns_only_share": 0.33,
            "plateau": {"every_steps": 500, "patience": 3, "min_improvement": 0.001, "held_back": 64},
        },
        continued={"budget": {"seconds": more_s}, "copying_seconds": 0.0, "turns_only_share": 0.0, "plateau": None},
        reject={"max_tasks": reject_tasks, "episodes_per_task": 2, **playing},
        grpo={
            "budget": {"seconds": more_s},
            "tasks_per_step": step[0],
            "group_size": step[1],
            "micro_batch": 32,
            "learning_rate": 1e-3,
            "final_share": 0.1,
            **playing,
        },
        evaluate={"max_tasks": tasks, "samples": samples, "cached_samples": 1, **playing},
    )


SIZES: dict[str, DemoSettings] = {
    "smoke": DemoSettings(
        data=DataSettings(towns=4, validation_towns=1),
        recipe=_recipe(sft_s=4, copying_s=1, more_s=4, tasks=6, samples=2, reject_tasks=6, step=(2, 4)),
    ),
    "standard": DemoSettings(
        recipe=_recipe(sft_s=240, copying_s=30, more_s=150, tasks=300, samples=4, reject_tasks=400, step=(8, 16)),
    ),
    "full": DemoSettings(
        recipe=_recipe(sft_s=600, copying_s=45, more_s=420, tasks=306, samples=8, reject_tasks=1200, step=(8, 16)),
    ),
}
