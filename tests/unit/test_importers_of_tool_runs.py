"""MCP tool runs (LiveMCPBench) and OpenAI Responses items (NeMo-Gym) to trajectories: every trap, and the public data with exact counts."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.errors import DataError
from cacherl.importers.mcp_result import mcp_result
from cacherl.trajectory import Role, Trajectory
from tests.unit.importing import SAMPLES, by_id, public, taken

LIVE = SAMPLES / "livemcpbench" / "m1_trajectories.json"
GYM = SAMPLES / "nemo_gym.jsonl"


def called(trajectory: Trajectory) -> list[tuple[str, dict]]:
    return [(call.function.name, call.function.arguments) for message in trajectory.messages for call in message.tool_calls]


def results(trajectory: Trajectory) -> list[tuple[str | None, str | None, bool]]:
    return [(m.name, m.content, m.is_error) for m in trajectory.messages if m.role is Role.TOOL]


def as_repr(*texts: str, error: bool = False) -> str:
    blocks = ", ".join(f"TextContent(type='text', text={text!r}, annotations=None)" for text in texts)
    return f"meta=None content=[{blocks}] isError={error}"


def test_what_the_dispatcher_called_is_the_call():
    trajectories, result = taken(LIVE)
    assert (result.format, result.counts.records, result.counts.repaired, result.counts.refused) == ("livemcpbench", 7, 5, 2)
    assert result.counts.reasons == Counter(
        {"mcp-result-unwrapped": 4, "dispatched-call": 4, "mcp-result-cut": 1, "mcp-result": 1, "no-messages": 1}
    )
    read = by_id(trajectories)["m1:read"]
    assert called(read) == [("route", {"query": "notes"}), ("notes.read", {"name": "it's late"})]
    assert results(read)[1] == ("notes.read", "It says: 'buy \"bread\"'\nand milk", False)
    assert (read.scenario, read.task_id, read.model) == ("livemcpbench", "read", "m1")
    assert called(by_id(trajectories)["m1:plain"]) == [("execute-tool", {"server_name": "notes"})], "names no tool: left as it is"


def test_a_runs_tools_are_those_it_was_shown_and_those_it_called():
    trajectories, result = taken(LIVE)
    tools = {t.task_id: [tool.name for tool in t.tools] for t in trajectories}
    assert tools == {
        "read": ["notes.read", "clock.now"],
        "errors": ["notes.read", "clock.now"],
        "cut": ["notes.read"],
        "image": [],
        "plain": [],
    }
    read = by_id(trajectories)["m1:read"].tools
    assert [tool.annotations.mutating for tool in read] == [False, None]
    assert len({tool.resource_group for tool in read}) == 1, "all servers work on one machine"
    assert "without the schemas of clock.wrong" in result.why


def test_an_error_at_any_depth_is_an_error():
    found = results(by_id(taken(LIVE)[0])["m1:errors"])
    assert found == [
        ("notes.read", "No such note", True),
        ("notes.read", "Error executing tool execute-tool: INTERNAL_ERROR", True),
        ("clock.now", "Tool call timed out.", True),
    ]


def test_a_result_that_the_log_cut_off_keeps_what_is_left_of_it():
    ((_, text, error),) = results(by_id(taken(LIVE)[0])["m1:cut"])
    assert text.startswith("It says: 'buy \"bread\"'\nand more")
    assert not error


def test_a_label_needs_more_judges_than_chance_would_give():
    outcomes = {t.task_id: t.outcome.label for t in taken(LIVE)[0]}
    assert outcomes == {"read": True, "errors": False, "cut": None, "image": None, "plain": None}
    found = by_id(taken(LIVE)[0])
    assert found["m1:read"].metadata["judges"] == {"success": 9, "failure": 1}, "the words count, not the number that contradicts them"
    assert found["m1:cut"].outcome.source == "livemcpbench judges: 8 of 10 are too few"


@given(st.lists(st.text(), min_size=1, max_size=3), st.booleans())
def test_the_repr_of_any_text_is_read(texts, error):
    repairs: list[str] = []
    wrapped = "\n".join(texts)
    text, flag = mcp_result(as_repr(*texts, error=error), "/x", repairs)
    if not wrapped.startswith(("{", "meta=")):
        assert (text, flag, repairs) == (wrapped, error, ["mcp-result-unwrapped"])


@given(st.text(min_size=1), st.data())
def test_a_cut_repr_gives_the_beginning_of_its_text_or_is_refused(text, data):
    whole = as_repr("> " + text)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    repairs: list[str] = []
    try:
        found, flag = mcp_result(cut, "/x", repairs)
    except DataError:
        return
    assert flag is None
    assert found == cut if not repairs else ("> " + text).startswith(found)


@pytest.mark.parametrize(
    "text", ["", "ok", "{}", '{"content": 3, "isError": false}', '{"content": [3], "isError": false}', '{"content": "x']
)
def test_what_is_no_mcp_result_stays(text):
    repairs: list[str] = []
    assert mcp_result(text, "/x", repairs) == (text, None)
    assert repairs == []


def test_every_trap_of_responses_items_is_repaired_or_refused_by_name():
    _, result = taken(GYM)
    assert (result.format, result.counts.records, result.counts.imported, result.counts.repaired) == ("nemo_gym", 14, 4, 1)
    assert [problem.problem_slug for problem in result.problems] == [
        "not-a-rollout", "no-tool-results", "item-kind", "user-called-tools", "arguments-not-json", "result-without-call",
        "content-not-text", "no-messages", "not-a-message",
    ]  # fmt: skip
    assert [problem.line for problem in result.problems] == list(range(6, 15))


def test_items_of_one_turn_are_one_message():
    second = taken(GYM)[0][1]
    assert [m.role.value for m in second.messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    turn = second.messages[2]
    assert (turn.content, turn.reasoning_content) == ("I look.", "Two.\n\nAnd")
    assert called(second) == [("find_order", {"order_id": "A1"}), ("find_order", {"order_id": "A2"})]
    assert [m.tool_call_id for m in second.messages[3:5]] == ["c2", "c1"]
    assert [error for _, _, error in results(second)] == [True, False]


def test_what_a_rollout_says_of_itself_is_kept():
    first, second, continued, masked, empty = taken(GYM)[0]
    assert (first.id, first.scenario, first.task_id, first.trial, first.model) == ("nemo_gym:t1:2", "shop", "t1", "2", "m1")
    assert (first.outcome.label, second.outcome.label, second.scenario) == (1.0, 0.25, "shop")
    assert second.task_id.startswith("prompt-")
    assert len(continued.messages) == 7, "the output goes on where the input ends"
    assert continued.task_id == "retail-7"
    assert continued.scenario.startswith("nemo_gym/retail/"), "the task's own start makes a scenario of its own"
    assert masked.outcome.label is None, "the gym says that it must not count"
    assert masked.scenario not in (empty.scenario, continued.scenario)
    assert {t.scenario for t in taken(GYM, scenario="mine")[0]} == {"mine"}


def test_livemcpbench_whole():
    trajectories, result = taken(public("livemcpbench/claude-sonnet-4_trajectories.json"))
    assert (result.counts.records, result.counts.repaired, result.counts.refused) == (95, 95, 0)
    assert result.counts.reasons == {"mcp-result-unwrapped": 95, "dispatched-call": 93, "mcp-result-cut": 35}
    assert Counter(t.outcome.label for t in trajectories) == {True: 37, False: 18, None: 40}
    assert sum(len(called(t)) for t in trajectories) == 814
    assert sum(m.is_error for t in trajectories for m in t.messages) == 118
    assert len({name for t in trajectories for name, _ in called(t)}) == 126
    assert {t.model for t in trajectories} == {"claude-sonnet-4"}
    assert not any(m.content.startswith("meta=") for t in trajectories for m in t.messages if m.role is Role.TOOL)


@pytest.mark.parametrize(
    ("file", "imported", "refused", "calls"),
    [
        ("resources_servers__conversational_tool_use_simulation__example_rollouts", 4, {"no-tool-results": 1}, 14),
        ("resources_servers__ns_tools__example_rollouts", 5, {}, 21),
        ("resources_servers__workplace_assistant__example_rollouts", 4, {}, 6),
        ("resources_servers__workplace_assistant__example", 0, {"not-a-rollout": 5}, 0),
        ("responses_api_agents__tau2__example_rollouts", 4, {}, 16),
    ],
)
def test_nemo_gym_whole(file, imported, refused, calls):
    trajectories, result = taken(public(f"nemo_gym_samples/{file}.jsonl"))
    assert (result.counts.imported, result.counts.reasons) == (imported, refused)
    assert sum(len(called(t)) for t in trajectories) == calls
    assert all(t.tools and {name for name, _ in called(t)} <= {tool.name for tool in t.tools} for t in trajectories)


def test_tau2_keeps_tasks_that_start_differently_apart():
    trajectories, _ = taken(public("nemo_gym_samples/responses_api_agents__tau2__example_rollouts.jsonl"))
    assert len({t.scenario for t in trajectories}) == 4
    assert [len(t.scenario.split("/")) for t in trajectories] == [3, 2, 3, 3], "airline starts from its one database"


ITEM_FIELDS = ["type", "role", "content", "call_id", "name", "arguments", "output", "summary", "text", "input", "tools", "task", "config"]
ITEM_KINDS = ["message", "reasoning", "function_call", "function_call_output", "assistant", "user", "output_text", "{}"]


@given(
    st.recursive(
        st.none() | st.integers() | st.sampled_from(ITEM_KINDS),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ITEM_FIELDS), inner, max_size=5),
    )
)
def test_no_record_crashes(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    rows = [{"responses_create_params": value, "response": value, "task": value}]
    rows.append({"responses_create_params": {"input": value, "tools": value}, "response": {"output": value}, "config": value})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("nemo_gym", "livemcpbench"):
        assert taken(path, format=name)[1].counts.records == 2
