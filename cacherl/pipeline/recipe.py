"""The jobs of a run and what each waits for: rows with dependencies, never a job that waits on jobs.

augment ─ init ─ sft ┬─ grpo
                     ├─ sft_continued
                     └─ reject ─ sft_accepted ─ recipe (GRPO from accepted)
and, once all training has ended (so that the world's counter can prove that training called nothing), one evaluation a row
"""

from typing import Any

from cacherl.api.trainer import AugmentSpec, EvaluateSpec, GrpoSpec, InitSpec, JobSpec, RejectSpec, SftSpec
from cacherl.pipeline.names import Names
from cacherl.pipeline.plan import RunPlan
from cacherl.wire import Wire


class PlannedJob(Wire):
    """A job before it has an id."""

    label: str
    spec: JobSpec
    after: list[str] = []
    """Labels."""
    priority: int = 0
    phase: str


def training_jobs(plan: RunPlan, names: Names) -> list[PlannedJob]:
    """Everything up to the trained policies, in an order in which every job stands after those it waits for."""
    thoughtful = names.dataset("thoughtful")
    jobs = [
        PlannedJob(
            label="augment", phase="think", spec=AugmentSpec(dataset=names.dataset("logs"), output=thoughtful, teacher=plan.teacher)
        ),
        PlannedJob(
            label="base",
            phase="train",
            after=["augment"],
            spec=InitSpec(policy=names.policy("base"), datasets=[thoughtful], tokenizer=plan.tokenizer, model=plan.model, seed=plan.seed),
        ),
        PlannedJob(label="sft", phase="train", after=["base"], spec=_sft(plan, names, "base", "sft", thoughtful, {})),
    ]
    if "sft_accepted" in plan.rows:
        jobs += _accepted(plan, names)
    if "grpo" in plan.rows:
        jobs.append(PlannedJob(label="grpo", phase="train", after=["sft"], priority=9, spec=_grpo(plan, names, "sft", "grpo")))
    if "sft_continued" in plan.rows:
        spec = _sft(plan, names, "sft", "sft_continued", thoughtful, plan.continued)
        jobs.append(PlannedJob(label="sft_continued", phase="train", after=["sft"], priority=-5, spec=spec))
    return jobs


def evaluation_jobs(plan: RunPlan, names: Names, training: list[PlannedJob]) -> list[PlannedJob]:
    """One evaluation per row, after all training."""
    return [
        PlannedJob(label=f"evaluate:{row}", phase="evaluate", after=[job.label for job in training], spec=_evaluation(plan, names, row))
        for row in plan.rows
    ]


def _accepted(plan: RunPlan, names: Names) -> list[PlannedJob]:
    accepted = names.dataset("accepted")
    reject = RejectSpec(
        policy=names.policy("sft"),
        tasks=names.dataset("tasks"),
        cache=names.cache("train"),
        originals=[names.dataset("thoughtful")],
        output=accepted,
        **{"seed": plan.seed, **plan.reject},
    )
    tuned = _sft(plan, names, "sft", "sft_accepted", accepted, plan.continued)
    jobs = [
        PlannedJob(label="reject", phase="train", after=["sft"], priority=8, spec=reject),
        PlannedJob(label="sft_accepted", phase="train", after=["reject"], priority=7, spec=tuned),
    ]
    if "recipe" in plan.rows:
        spec = _grpo(plan, names, "sft_accepted", "recipe")
        jobs.append(PlannedJob(label="recipe", phase="train", after=["sft_accepted"], priority=6, spec=spec))
    return jobs


def _sft(plan: RunPlan, names: Names, start: str, row: str, dataset: str, over: dict[str, Any]) -> SftSpec:
    fields = {"seed": plan.seed, **plan.sft, **over}
    return SftSpec(init_policy=names.policy(start), policy=names.policy(row), datasets=[dataset], **fields)


def _grpo(plan: RunPlan, names: Names, start: str, row: str) -> GrpoSpec:
    fields = {"seed": plan.seed, **plan.grpo}
    return GrpoSpec(
        init_policy=names.policy(start), policy=names.policy(row), tasks=names.dataset("tasks"), cache=names.cache("train"), **fields
    )


def _evaluation(plan: RunPlan, names: Names, row: str) -> EvaluateSpec:
    live = names.cache("live") if plan.live_server else None
    return EvaluateSpec(
        policy=names.policy(row),
        tasks=names.dataset("validation"),
        live_cache=live,
        live_server=plan.live_server,
        cached=names.cache("validation"),
        cached_in=names.cache("validation"),
        **{"seed": plan.seed, **plan.evaluate},
    )
