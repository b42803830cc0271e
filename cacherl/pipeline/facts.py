"""What a run leaves for its report: measured things only, not yet summarised."""

from typing import Any

from cacherl.api.trainer import Job
from cacherl.evaluation import Evaluation
from cacherl.pipeline.names import Names
from cacherl.pipeline.plan import RunPlan
from cacherl.wire import Wire


class RunFacts(Wire):
    """Everything that `report.build` reads."""

    plan: RunPlan
    names: Names
    data: dict[str, Any]
    caches: dict[str, Any]
    calibration: dict[str, Any]
    jobs: dict[str, Job]
    """By label."""
    evaluations: dict[str, Evaluation]
    """By row."""
    live_counts: dict[str, int | None]
    """The world's counter `before`, `after_training`, `after_evaluation`."""
    grpo_steps: dict[str, list[dict[str, Any]]] = {}
    sft_steps: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float]
