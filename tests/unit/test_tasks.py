"""Tasks from trajectories: prompts, references that are never flawed, facts, splits."""

import json

from hypothesis import given
from hypothesis import strategies as st

from cacherl.tasks import facts_of, split, tasks_from
from cacherl.tool_spec import Function, ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Outcome, Role, Task, Trajectory

TOOL = ToolSpec(function=Function(name="shop.find"))


def user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


def calls(name: str, arguments: dict, number: int) -> Message:
    function = CalledFunction(name=name, arguments=arguments)
    return Message(role=Role.ASSISTANT, content="", tool_calls=[MessageToolCall(id=f"c{number}", function=function)])


def gives(value: object, number: int, is_error: bool = False) -> Message:
    text = value if isinstance(value, str) else json.dumps(value)
    return Message(role=Role.TOOL, content=text, tool_call_id=f"c{number}", name="shop.find", is_error=is_error)


def says(text: str) -> Message:
    return Message(role=Role.ASSISTANT, content=text)


def run(name: str, label: bool | float | None, *steps: tuple[str, bool], answer: str = "It is in Oslo.", task: str = "k") -> Trajectory:
    messages = [user("Where is the desk?")]
    for i, (what, is_error) in enumerate(steps):
        messages += [calls("shop.find", {"q": what}, i), gives({"place": "Oslo"}, i, is_error)]
    outcome = Outcome(label=label, source="test")
    return Trajectory(id=name, messages=[*messages, says(answer)], tools=[TOOL], scenario="s", task_id=task, outcome=outcome)


def asked(task: Task) -> list[object]:
    assert task.reference is not None
    return [call.arguments["q"] for call in task.reference.calls]


def only(*trajectories: Trajectory, **more) -> Task:
    (task,) = tasks_from(trajectories, **more)
    return task


def test_a_task_is_what_was_asked_with_its_tools_and_scenario():
    task = only(run("t1", True, ("desk", False)))
    assert (task.id, task.scenario, task.tools, task.exclude_sources) == ("k", "s", [TOOL], [])
    assert [m.content for m in task.messages] == ["Where is the desk?"]
    assert task.reference is not None
    assert task.reference.answer == "It is in Oslo."
    assert [fact.value for fact in task.reference.facts or []] == ["Oslo"]
    assert task.reference.calls[0].id is None
    assert task.metadata == {"reference": "accepted", "trajectories": 1, "reference_source": "t1"}


def test_own_recordings_are_excluded_only_when_asked():
    runs = [run("t1", True, ("a", False)), run("t2", False, ("b", False)), run("t3", None, task="other")]
    assert {t.id: t.exclude_sources for t in tasks_from(runs, exclude_own=True)} == {"k": ["t1", "t2"], "other": ["t3"]}


labels = st.sampled_from([True, False, None, 0.0, 0.5, 1.0])
steps = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans()), max_size=3)


@given(st.lists(st.tuples(labels, steps), min_size=1, max_size=6))
def test_a_flawed_demonstration_is_never_a_reference(runs):
    trajectories = [run(f"t{i}", label, *made, answer=f"Answer {i}.") for i, (label, made) in enumerate(runs)]
    task = only(*trajectories)
    accepted = [t for t in trajectories if t.outcome.accepted]
    unlabelled = [t for t in trajectories if t.outcome.label is None]
    if not accepted and not unlabelled:
        assert task.reference is None
        assert task.metadata["reference"] == "none"
        return
    assert task.metadata["reference"] == ("accepted" if accepted else "unlabelled")
    source = next(t for t in trajectories if t.id == task.metadata["reference_source"])
    assert source in (accepted or unlabelled)
    assert task.reference is not None
    assert task.reference.answer == source.messages[-1].content
    failed = {m.tool_call_id for m in source.messages if m.is_error}
    made = [c for m in source.messages for c in m.tool_calls]
    assert [c.arguments for c in task.reference.calls] == [c.function.arguments for c in made if c.id not in failed]


def test_the_way_that_most_accepted_runs_went_is_the_reference():
    lucky, careful = ("a", False), ("b", False)
    assert asked(only(run("t0", True, lucky), run("t1", True, lucky, careful), run("t2", True, lucky, careful))) == ["a", "b"]
    clean = run("t2", True, careful)
    task = only(run("t1", True, ("x", True), careful), clean)
    assert task.metadata["reference_source"] == "t2", "of one way the run with the fewest failures"
    many = [run(f"u{i}", None, careful) for i in range(5)]
    assert only(*many, run("t1", True, lucky)).metadata["reference_source"] == "t1", "one label outweighs them"


def test_a_dialogue_gives_the_users_first_word_and_the_reference_ends_where_they_speak_again():
    messages = [
        Message(role=Role.SYSTEM, content="Be kind."),
        user("Hello."),
        user("Find the desk."),
        calls("shop.find", {"q": "desk"}, 0),
        gives("Oslo", 0),
        says("It is in Oslo."),
        user("And the lamp?"),
        calls("shop.find", {"q": "lamp"}, 1),
        gives("Rome", 1),
        says("It is in Rome."),
    ]
    task = only(Trajectory(id="t", messages=messages, scenario="s", task_id="k"))
    assert [m.content for m in task.messages] == ["Be kind.", "Hello.", "Find the desk."]
    assert asked(task) == ["desk"]
    assert task.reference is not None
    assert task.reference.answer == "It is in Oslo."
    assert task.metadata["dialogue"] is True
    assert task.metadata["reference"] == "unlabelled"


def test_trajectories_that_end_in_a_call_have_no_answer_and_those_that_begin_with_the_assistant_no_task():
    task = only(Trajectory(id="t", messages=[user("x"), calls("shop.find", {"q": "a"}, 0), gives("b", 0)], scenario="s", task_id="k"))
    assert task.reference is not None
    assert (task.reference.answer, task.reference.facts, len(task.reference.calls)) == (None, None, 1)
    assert list(tasks_from([Trajectory(id="t", messages=[says("Hello!")], scenario="s", task_id="k")])) == []


def facts(answer: str, *results: object, question: str = "Where?") -> list[str]:
    found = facts_of(answer, [user(question), *[gives(value, i) for i, value in enumerate(results)]])
    return [fact.value for fact in found or []]


def test_facts_are_the_answers_values_that_come_from_results():
    status = {"status": "in transit", "depot": "Oslo", "weight": 12.0, "fragile": True, "note": None}
    assert facts("The desk is in transit near Oslo, 12 kg.", status) == ["in transit", "Oslo", "12"]
    assert facts("The total is $1,234.50.", {"total": 1234.5}) == ["1234.5"]
    assert facts("It is A37.", "order A37 was found") == [], "a sentence is no value"
    assert facts("It is A37.", '"A37"') == facts("It is A37.", "A37") == ["A37"]
    assert facts("A370 and 4.5 are no A37 and no 4.", {"id": "A3", "n": 5}) == []
    assert facts("Order A37 of Ann Lee.", {"id": "A37", "name": "Ann"}, {"name": "Ann Lee"}) == ["A37", "Ann Lee"], "the widest"
    assert facts("The desk is in Oslo.", {"item": "desk", "at": "Oslo"}, question="Where is the desk?") == ["Oslo"], "the user said desk"
    assert facts("I could not find it.", status) == []


def test_failed_results_hold_no_facts():
    assert facts_of("It is in Oslo.", [gives({"at": "Oslo"}, 0, is_error=True)]) is None


def test_numbers_have_the_writings_of_prose_as_aliases():
    (fact,) = facts_of("It costs 1,234.50 euros.", [gives({"price": 1234.5}, 0)]) or []
    assert set(fact.aliases) == {"1,234.5", "1,234.50", "1234.50"}


def task_named(name: str) -> Task:
    return Task(id=name, messages=[user("x")], tools=[], scenario="s")


@given(st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=30), st.floats(0, 1), st.integers(0, 5))
def test_a_split_is_a_partition_that_depends_on_names_alone(names, share, seed):
    tasks = [task_named(name) for name in names]
    kept, held = split(tasks, share, seed)
    assert sorted(t.id for t in kept + held) == sorted(names)
    again = split(list(reversed(tasks)), share, seed)
    assert ({t.id for t in again[0]}, {t.id for t in again[1]}) == ({t.id for t in kept}, {t.id for t in held})
    if len(names) > 1 and 0 < share < 1:
        assert kept
        assert held
    assert [t.id for t in kept] == [name for name in names if name in {t.id for t in kept}], "in their order"


def test_a_split_has_its_share_and_keeps_a_tasks_side_when_others_come():
    tasks = [task_named(f"task {i}") for i in range(2000)]
    held = {t.id for t in split(tasks, 0.2, 7)[1]}
    assert 340 < len(held) < 460
    assert {t.id for t in split(tasks[:1000], 0.2, 7)[1]} == held & {t.id for t in tasks[:1000]}
    assert {t.id for t in split(tasks, 0.2, 8)[1]} != held
    assert split(tasks, 0, 7)[1] == []
    assert split(tasks, 1, 7)[0] == []


def test_one_of_several_trials_of_one_task_stays_on_one_side():
    twice = [task_named("a"), task_named("a"), task_named("b")]
    kept, held = split(twice, 0.5, 1)
    assert sorted(len({t.id for t in side}) for side in (kept, held)) == [1, 1]
