"""A run's plan, its jobs and its state: what is refused, what waits for what, what is resumed."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cacherl.pipeline.bounded import bounded_plan
from cacherl.pipeline.names import ROWS, Names
from cacherl.pipeline.plan import RunPlan
from cacherl.pipeline.prepare import tool_specs
from cacherl.pipeline.recipe import evaluation_jobs, training_jobs
from cacherl.pipeline.state import RunState, load
from cacherl.tool_spec import Annotations, Function, ToolSpec
from cacherl.trajectory import Trajectory
from demo.config import SIZES
from demo.run import plan as demo_plan


def plan(**fields: Any) -> RunPlan:
    return RunPlan(name="mine", logs=[Path("/logs.jsonl")], **fields)


@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_demos_plans_are_valid_and_give_everything_after_sft_the_same_budget(size: str) -> None:
    found = demo_plan(SIZES[size], Path("/data"), 0)
    if size != "smoke":
        assert found.continued["budget"] == found.grpo["budget"]


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": ["sft", "grpo"]},
        {"rows": ["base", "sft", "oracle"]},
        {"rows": ["base", "sft", "recipe"]},
        {"sft": {"learning_rat": 1e-3}},
        {"grpo": {"group_size": 1}},
        {"logs": []},
        {"unknown": 1},
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_runs(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RunPlan(**{"name": "mine", "logs": [Path("/logs.jsonl")], **fields})


def test_every_job_stands_after_what_it_waits_for_and_evaluation_after_all_training() -> None:
    names = Names(prefix="mine-1")
    training = training_jobs(plan(), names)
    seen: set[str] = set()
    for job in training:
        assert set(job.after) <= seen, job.label
        seen.add(job.label)
    evaluations = evaluation_jobs(plan(), names, training)
    assert [job.label for job in evaluations] == [f"evaluate:{row}" for row in ROWS]
    assert all(set(job.after) == seen for job in evaluations)


def test_given_annotations_stand_before_those_of_the_logs() -> None:
    own = Annotations(mutating=True, ttl_s=60, inferred={"mutating": "its name"})
    said = ToolSpec(function=Function(name="read", description="Reads."), annotations=own)
    other = ToolSpec(function=Function(name="other"))
    logs = [Trajectory(id="t", task_id="t", scenario="s", tools=[said, other], messages=[])]
    given = {"read": Annotations(mutating=False), "bare": Annotations(volatile=["/result/at"])}
    found = {spec.name: spec for spec in tool_specs(logs, given)}
    assert found["read"].function == said.function
    assert found["read"].annotations == Annotations(mutating=False, ttl_s=60)
    assert found["other"] == other
    assert found["bare"].annotations.volatile == ["/result/at"]


def test_the_plan_of_a_run_on_logs_holds_the_given_annotations() -> None:
    given = {"read": Annotations(mutating=False)}
    made = bounded_plan(
        [Path("/logs.jsonl")], format_="auto", scenario=None, annotations=given, sft_steps=1, grpo_steps=1, max_tasks=1, seed=0
    )
    assert made.annotations == given
    assert RunPlan.model_validate_json(made.model_dump_json()).annotations == given


def test_rows_that_are_not_asked_for_make_no_jobs() -> None:
    labels = {job.label for job in training_jobs(plan(rows=["base", "sft", "grpo"]), Names(prefix="mine-1"))}
    assert labels == {"augment", "base", "sft", "grpo"}


def test_an_unfinished_run_of_the_same_plan_is_resumed_and_nothing_else(tmp_path: Path) -> None:
    state = RunState(plan="a", values={"import": {"trajectories": 3}})
    state.save(tmp_path)
    resumed, said = load(tmp_path, "a")
    assert (resumed.run, resumed.values) == (state.run, state.values)
    assert said.startswith("resuming")
    other, said = load(tmp_path, "b")
    assert other.run != state.run
    assert "another plan" in said
    state.finished = True
    state.save(tmp_path)
    fresh, said = load(tmp_path, "a")
    assert fresh.values == {}
    assert "finished" in said
    (tmp_path / "run.json").write_text("{half")
    assert load(tmp_path, "a")[0].values == {}


def test_two_runs_never_share_a_name() -> None:
    one, other = RunState(plan="a"), RunState(plan="a")
    assert Names(prefix=f"mine-{one.run}").policy("sft_continued") != Names(prefix=f"mine-{other.run}").policy("sft_continued")
