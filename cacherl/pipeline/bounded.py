"""The plan of `cacherl run`: a tiny model on somebody's logs for a bounded number of steps.

A tiny model will not solve real tasks; what the run shows is what the cache can answer, what is masked, and that the losses fall.
"""

import hashlib
from pathlib import Path

from cacherl.api.trainer import ModelSpec, TokenizerSpec
from cacherl.pipeline.plan import RunPlan
from cacherl.tool_spec import Annotations

CONTEXT = 8192
"""Tokens: recorded dialogues with their tools and policies are long."""


def bounded_plan(
    logs: list[Path],
    *,
    format_: str,
    scenario: str | None,
    annotations: dict[str, Annotations],
    sft_steps: int,
    grpo_steps: int,
    max_tasks: int,
    seed: int,
) -> RunPlan:
    """Rows base, sft, grpo; long contexts; few tasks a step."""
    limits = {"max_turns": 4, "max_tokens": 1024, "max_result_tokens": 256}
    sampling = {"temperature": 1.0, "max_tokens": 96}
    name = "logs-" + hashlib.sha256("/".join(str(path) for path in logs).encode()).hexdigest()[:8]
    return RunPlan(
        name=name,
        logs=[path.resolve() for path in logs],
        format=format_,
        scenario=scenario,
        annotations=annotations,
        rows=["base", "sft", "grpo"],
        tokenizer=TokenizerSpec(vocab_size=4096),
        model=ModelSpec(context=CONTEXT),
        sft={
            "budget": {"steps": sft_steps},
            "optimizer": "muon",
            "learning_rate": 2e-3,
            "batch_size": 1,
            "max_length": CONTEXT,
            "copying_seconds": 5,
        },
        grpo={
            "budget": {"steps": grpo_steps},
            "tasks_per_step": 4,
            "group_size": 4,
            "micro_batch": 4,
            "learning_rate": 3e-4,
            "limits": limits,
            "sampling": sampling,
        },
        evaluate={"max_tasks": max_tasks, "samples": 1, "cached_samples": 1, "greedy": False, "limits": limits, "sampling": sampling},
        seed=seed,
    )
