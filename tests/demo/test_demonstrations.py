"""Tasks and recordings: the clean expert reaches every goal, each flaw does what it says, training and validation share nothing."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest

from cacherl.trajectory import Task, Trajectory
from demo.config import SIZES, DataSettings
from demo.expert import GAVE_UP, SCRIPTS
from demo.flaws import Flaw, demonstrate, drawn_flaw, perform
from demo.generate import generate, trajectory
from demo.run import plan
from demo.tasks import Exercise, exercises
from demo.world.engine import TOOLS, Goal, Session
from demo.world.town import VALIDATION_FROM

SETTINGS = DataSettings()


@pytest.fixture(scope="module")
def training() -> list[Exercise]:
    return exercises(SETTINGS, 0, 30)


@pytest.fixture(scope="module")
def validation() -> list[Exercise]:
    return exercises(SETTINGS, VALIDATION_FROM, 10)


def test_every_kind_has_a_script_and_a_place_in_the_roster():
    assert set(SETTINGS.roster) == set(SCRIPTS)
    assert set(SETTINGS.habit_kinds) < set(SCRIPTS)
    assert all(TOOLS[kind.split(".")[0] + ".find_customer"] for kind in SCRIPTS if kind.startswith("orders."))


def test_the_clean_expert_reaches_the_goal_of_every_kind(training: list[Exercise], validation: list[Exercise]):
    reached = {item.kind for item in training + validation if perform(item, Flaw.NONE, Random(item.id), 0.0).verdict.success}
    assert reached == set(SCRIPTS)
    assert all(perform(item, Flaw.NONE, Random(item.id), 0.0).verdict.success for item in training + validation)


def test_the_reference_calls_reach_the_goal_and_nothing_less_does(training: list[Exercise]):
    for item in training:
        reference = item.task.reference
        assert reference is not None
        assert reference.goal is not None
        session = Session(item.town)
        for call in reference.calls:
            assert not session.call(call.name, call.arguments)[1]
        goal = Goal(state=reference.goal["state"], answer=tuple(reference.goal["answer"]))
        assert session.check(goal, reference.answer).success
        assert not session.check(goal, GAVE_UP).success


def test_tasks_take_two_to_five_calls_with_four_or_five_tools_shown(training: list[Exercise]):
    lengths = Counter(len(item.task.reference.calls) for item in training if item.task.reference)
    assert set(lengths) == {2, 3, 4, 5}
    assert {len(item.task.tools) for item in training} == {4, 5}
    unneeded = 0
    for item in training:
        shown, used = {tool.name for tool in item.task.tools}, {call.name for call in item.task.reference.calls}
        assert used <= shown
        unneeded += len(shown) > len(used)
    assert unneeded / len(training) > 0.8


def test_later_arguments_come_from_earlier_results_and_never_from_the_question(training: list[Exercise]):
    dependent = 0
    for item in training:
        session, seen = Session(item.town), ""
        for position, call in enumerate(item.task.reference.calls):
            values = [str(value) for value in call.arguments.values()]
            if position:
                assert any(f'"{value}"' in seen or f" {value}}}" in seen for value in values), (item.id, call)
                dependent += 1
            seen += session.call(call.name, call.arguments)[0]
        asked = item.task.messages[0].content or ""
        needed = set(item.goal.answer) - {item.slots.get("target"), "delayed", "lost"}  # the refund question names its condition
        assert not any(value in asked.split() for value in needed), (item.id, needed)
    assert dependent > len(training)


def test_two_tasks_of_a_town_and_kind_never_ask_the_same(training: list[Exercise]):
    asked = Counter((item.town, item.kind, json.dumps(item.slots, sort_keys=True)) for item in training)
    assert max(asked.values()) == 1


def test_recordings_of_one_task_serve_others_of_its_town(training: list[Exercise]):
    callers = defaultdict(set)
    for item in training:
        for call in item.task.reference.calls:
            callers[item.town, call.name, json.dumps(call.arguments, sort_keys=True)].add(item.id)
    shared = sum(len(tasks) > 1 for tasks in callers.values())
    assert shared / len(callers) > 0.2


@pytest.mark.parametrize("flaw", [flaw for flaw in Flaw if flaw is not Flaw.NONE])
def test_a_flaw_costs_the_goal(flaw: Flaw, training: list[Exercise]):
    labels = [perform(item, flaw, Random(f"{item.id}{flaw}"), 0.0) for item in training]
    kept = [run for run in labels if run.flaw is flaw]
    succeeded = sum(run.verdict.success for run in kept) / len(kept)
    if flaw in {Flaw.GIVE_UP, Flaw.ASK_WRONG}:
        assert succeeded == 0
        assert all(run.answer == GAVE_UP for run in kept)
    else:
        assert succeeded < 0.05  # a made-up value or another record's is right by chance
        assert len(kept) > 100


def test_each_flaw_does_what_its_name_says(training: list[Exercise]):
    for item in training:
        wanted = item.task.reference.calls
        runs = {flaw: perform(item, flaw, Random(item.id), 0.0) for flaw in Flaw}
        assert [(step.tool, step.is_error) for step in runs[Flaw.SKIP_LAST].steps] == [(call.name, False) for call in wanted[:-1]]
        assert 1 <= len(runs[Flaw.GIVE_UP].steps) < len(wanted)
        assert [step.is_error for step in runs[Flaw.ASK_WRONG].steps].count(True) == 1
        assert runs[Flaw.ASK_WRONG].steps[-1].is_error
        if runs[Flaw.WRONG_RECORD].flaw is Flaw.WRONG_RECORD:
            assert [step.arguments for step in runs[Flaw.WRONG_RECORD].steps] != [call.arguments for call in wanted]


def test_the_shares_of_flaws_are_those_of_the_settings():
    rng, n = Random(0), 20_000
    habit = Counter(drawn_flaw(rng, "calendar.key", SETTINGS) for _ in range(n))
    other = Counter(drawn_flaw(rng, "orders.status", SETTINGS) for _ in range(n))
    assert habit[Flaw.SKIP_LAST] / n == pytest.approx(0.65 + 0.35 * 0.20 / 4, abs=0.01)
    assert habit[Flaw.NONE] / n == pytest.approx(0.35 * 0.8, abs=0.01)
    assert other[Flaw.NONE] / n == pytest.approx(0.8, abs=0.01)
    for flaw in (Flaw.SKIP_LAST, Flaw.GIVE_UP, Flaw.ASK_WRONG, Flaw.WRONG_RECORD):
        assert other[flaw] / n == pytest.approx(0.05, abs=0.01)


def test_trials_of_a_task_differ_and_each_is_reproducible(training: list[Exercise]):
    flaws = [tuple(demonstrate(item, trial, SETTINGS).flaw for trial in (1, 2)) for item in training]
    assert any(len(set(trials)) > 1 for trials in flaws)
    assert trajectory(training[0], 1, SETTINGS) == trajectory(training[0], 1, SETTINGS)
    queries = {step.arguments["query"] for item in training for step in demonstrate(item, 1, SETTINGS).steps if "query" in step.arguments}
    assert len({" ".join(word for word in query.split() if word.islower()) for query in queries}) >= 3


def test_generation_is_complete_labelled_and_the_same_every_time(tmp_path: Path):
    settings = DataSettings(towns=8, validation_towns=2)
    first, second = generate(tmp_path / "a", settings), generate(tmp_path / "b", settings)
    assert first == second
    lines = {name: (tmp_path / "a" / name).read_text().splitlines() for name in first["files"]}
    train = [Trajectory.model_validate_json(line) for line in lines["train.trajectories.jsonl"]]
    held_out = [Trajectory.model_validate_json(line) for line in lines["validation.trajectories.jsonl"]]
    tasks = [Task.model_validate_json(line) for line in lines["validation.tasks.jsonl"]]
    assert len(train) == 8 * 18 * 2
    assert all(item.outcome.source == "world" for item in train + held_out)
    assert all(
        item.outcome.label is (item.metadata["flaw"] == "none") or item.metadata["flaw"] in {"skip_last", "wrong_record"} for item in train
    )
    assert {item.scenario for item in train}.isdisjoint(item.scenario for item in held_out)
    assert {source for task in tasks for source in task.exclude_sources} == {item.id for item in held_out}
    cached = {Trajectory.model_validate_json(line).task_id for line in lines["cache.trajectories.jsonl"]}
    absent = {item.task_id for item in train} - cached
    assert len(absent) == first["unrecorded_tasks"]
    assert 0 < len(absent) / (8 * 18) < 0.25


def test_the_standard_size_has_what_the_demo_promises(tmp_path: Path):
    manifest = generate(tmp_path, SETTINGS)
    assert manifest["files"]["train.trajectories.jsonl"]["records"] >= 3000
    assert manifest["files"]["validation.tasks.jsonl"]["records"] >= 250
    turns = manifest["train"]["calls"] + manifest["files"]["train.trajectories.jsonl"]["records"]
    assert 0.15 <= manifest["train"]["analytical_turns"] * manifest["train"]["calls"] / turns <= 0.20
    assert 0.6 < manifest["train"]["success"] < 0.75
    keys = manifest["train"]["flaws_by_kind"]["calendar.key"]
    assert keys["skip_last"] / sum(keys.values()) == pytest.approx(0.67, abs=0.06)


def test_every_size_is_a_valid_plan(tmp_path: Path):
    for settings in SIZES.values():
        assert plan(settings, tmp_path, 0).rows[:2] == ["base", "sft"]
