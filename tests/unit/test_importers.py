"""Log formats to trajectories: small samples of every trap, and the public data with exact counts."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cacherl.errors import DataError, UsageError
from cacherl.importers import FORMATS, ImportResult, import_file, recognise
from cacherl.importers.failed import failed
from cacherl.trajectory import Role
from tests.unit.importing import SAMPLES, by_id, public, taken

REPAIRS = [
    "empty-arguments", "arguments-as-object", "arguments-encoded-twice", "call-id-mismatch", "missing-call-id", "repeated-call-id",
    "content-as-json", "repeated-id", "tools-as-text",
]  # fmt: skip
REFUSALS = [
    "arguments-not-json", "arguments-not-json", "arguments-not-an-object", "result-without-call", "no-assistant-turn", "no-messages",
    "unknown-role", "content-not-text", "function-call-form", "tool-schema", "not-a-record", "not-json",
]  # fmt: skip


def test_every_trap_of_chat_logs_is_repaired_or_refused_by_name():
    trajectories, result = taken(SAMPLES / "openai_chat.jsonl")
    assert (result.counts.records, result.counts.imported, result.counts.repaired, result.counts.refused) == (24, 3, 9, 12)
    assert result.counts.reasons == Counter(REPAIRS + REFUSALS)
    assert result.format == "openai_chat"
    assert "scenario 'openai_chat'" in result.why
    found = by_id(trajectories)
    arguments = {name: t.messages[1].tool_calls[0].function.arguments for name, t in found.items() if t.messages[1].tool_calls}
    assert arguments.pop("empty-arguments") == {}
    assert all(value == {"order_id": "A37"} for value in arguments.values())
    assert found["empty-arguments"].messages[2].is_error
    assert found["no-tools"].tools == []
    assert found["no-tools"].messages[1].content == "Hello."
    assert [m.name for m in found["two-calls"].messages if m.role is Role.TOOL] == ["shop.cancel_order", "shop.find_order"]
    assert found["json-content"].messages[2].content == '{"place":"Oslo"}'
    assert found["plain#12"].messages[2].is_error, "the log's own flag counts"


def test_refusals_name_their_lines():
    _, result = taken(SAMPLES / "openai_chat.jsonl")
    lines = [problem.line for problem in result.problems]
    assert lines == [14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25]
    assert result.problems[0].errors[0]["pointer"] == "/messages/1/tool_calls/0/function/arguments"
    assert all(f"line {line}" in problem.detail for line, problem in zip(lines, result.problems, strict=True))


def test_what_a_chat_log_says_of_itself_is_kept():
    plain = by_id(taken(SAMPLES / "openai_chat.jsonl")[0])["plain"]
    assert (plain.task_id, plain.model, plain.scenario, plain.outcome.label, plain.outcome.source) == ("t1", "m", "shop-1", 1.0, "reward")
    assert (plain.raw.line, [tool.name for tool in plain.tools]) == (1, ["shop.find_order", "shop.cancel_order"])
    told = by_id(taken(SAMPLES / "openai_chat.jsonl", scenario="mine")[0])
    assert {t.scenario for t in told.values()} == {"mine"}


def test_runs_of_one_prompt_form_one_task():
    found = by_id(taken(SAMPLES / "openai_chat.jsonl")[0])
    assert found["object"].task_id == found["twice"].task_id != found["plain"].task_id
    assert found["object"].task_id.startswith("prompt-")


def test_our_own_format_is_read_strictly():
    trajectories, result = taken(SAMPLES / "cacherl.jsonl")
    assert result.format == "cacherl"
    assert result.counts.reasons == {"not-a-trajectory": 2, "no-assistant-turn": 1, "result-without-call": 1}
    assert [t.id for t in trajectories] == ["o1", "o6"]
    assert "/extra" in result.problems[0].detail


def test_our_own_format_round_trips(tmp_path: Path):
    trajectories, _ = taken(SAMPLES / "openai_chat.jsonl")
    path = tmp_path / "own.jsonl"
    path.write_text("".join(t.model_dump_json() + "\n" for t in trajectories))
    again, result = taken(path)
    assert again == trajectories
    assert result.counts.imported == len(trajectories)
    path.write_text("".join(t.model_dump_json(exclude_unset=True) + "\n" for t in trajectories))
    assert taken(path)[0] == trajectories


def test_tau_bench_sample():
    trajectories, result = taken(SAMPLES / "tau_bench" / "m1-shop_runs.json")
    assert result.format == "tau_bench"
    assert "2 tools from tools.json beside it" in result.why
    assert [t.outcome.label for t in trajectories] == [True, False, True]
    first = trajectories[0]
    assert (first.scenario, first.task_id, first.trial, first.model) == ("tau_bench/shop", "shop-0", "0", "m1")
    assert [t.raw.line for t in trajectories] == sorted({t.raw.line for t in trajectories})


def test_workbench_sample():
    trajectories, result = taken(SAMPLES / "workbench" / "runs.jsonl")
    assert (result.format, result.counts.reasons) == ("workbench", {"no-assistant-turn": 1})
    first = trajectories[0]
    assert (first.id, first.scenario, first.outcome.label) == ("email_1:m1:all", "workbench", True)
    assert first.tools[0].name == first.messages[1].tool_calls[0].function.name == "email.search_emails"
    assert first.messages[2].is_error


def test_bfcl_sample():
    trajectories, result = taken(SAMPLES / "bfcl" / "executed_sample.jsonl")
    assert result.format == "bfcl"
    assert [t.scenario for t in trajectories] == ["bfcl/7", "bfcl/7", "bfcl/7/long_context", "bfcl/8"]
    assert {tool.resource_group for t in trajectories for tool in t.tools} == {"shop_api"}


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".json", ".pretty.json"])
def test_containers(tmp_path: Path, suffix: str):
    plain = SAMPLES / "workbench" / "runs.jsonl"
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    content = {
        ".jsonl.gz": gzip.compress(plain.read_bytes()),
        ".jsonl.zst": zstandard.compress(plain.read_bytes()),
        ".json": json.dumps(rows).encode(),
        ".pretty.json": "\n".join(json.dumps(row, indent=2) for row in rows).encode(),
    }[suffix]
    path = tmp_path / f"runs{suffix}"
    path.write_bytes(b"\xef\xbb\xbf" + content if suffix == ".json" else content)
    trajectories, result = taken(path)
    assert [t.id for t in trajectories] == ["email_1:m1:all", "email_2:m1:all"]
    assert result.counts.records == 3


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[{}, {}", 1),
        (b'[\n{"role": "x"},\n{"a": NaN}\n]', 3),
        (b'[\n{"messages": []}\n{"b": 1}]', 3),
        (b"hello\nworld\n", 1),
        (b"\xff\xfe", 1),
        (b"[]", 1),
        (b"", 1),
        (b"\n\n3\n4\n", 1),
        (b'{"just": "an object"}', 1),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_a_line(tmp_path: Path, content: bytes, line: int):
    path = tmp_path / "log.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        list(import_file(path))
    with pytest.raises(DataError) as told:
        list(import_file(path, format="openai_chat")) or _raise_first(import_file(path, format="openai_chat"))
    assert line in (refusal.value.line, told.value.line)


def _raise_first(result: ImportResult) -> None:
    list(result)
    raise next(iter(result.problems), DataError("no record at all", line=1))


def test_wrong_usage(tmp_path: Path):
    with pytest.raises(UsageError, match="tau_bench"):
        import_file(SAMPLES / "cacherl.jsonl", format="parquet")
    for name in (*FORMATS, "auto"):
        with pytest.raises(DataError):
            import_file(tmp_path / "absent", format=name)
    broken = tmp_path / "x.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(DataError):
        recognise(broken)


def test_a_cut_line_at_the_end_costs_that_line_alone(tmp_path: Path):
    whole = (SAMPLES / "cacherl.jsonl").read_bytes()
    for cut in range(len(whole) - 40, len(whole), 7):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(whole[:cut])
        assert taken(path)[1].counts.records == 6


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "messages", "role", "content", "tool_calls", "function", "name", "arguments", "tools", "type"]),
                x,
                max_size=4,
            )
        ),
    )
)
def test_no_record_crashes_an_importer(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps({"messages": value}) + "\n" + json.dumps({"id": "a", "messages": [value], "tools": value}) + "\n")
    for name in FORMATS:
        assert taken(path, format=name)[1].counts.records == 2


FAILURES = """
Error: no seats
error
Error while calling the tool
ValueError: bad
requests.exceptions.HTTPError: 500
Order not found.
Invalid date.
Email not valid. Please choose another.
Missing details.
Value must be one of 'a', 'b'.
Name not provided.
Request timed out
503 Service Unavailable
{"error": "no such order"}
{"status": "error", "detail": "x"}
{"isError": true}
"""
SUCCESSES = """
ok
42
None
[]
{}
No events found.
Error rate by week: 3
Event deleted successfully.
{"error": null, "id": 3}
{"error": "", "id": 3}
{"errors": 0}
{"a": 1, "b": 2, "c": 3, "error": "text"}
"""
TEXTS = [(text, True) for text in FAILURES.strip().splitlines()] + [(text, False) for text in SUCCESSES.strip().splitlines()]
TEXTS += [("x.y is not a valid tool, try one of " + "z" * 500, True), ("Traceback (most recent call last):\n  File", True)]
TEXTS += [("", False), ("A letter about an invalid passport that was not found\nin the drawer.", False)]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_which_results_are_errors(text, expected):
    assert failed({}, text) is expected


def test_a_flag_decides_before_any_words():
    assert failed({"is_error": True}, "ok")
    assert not failed({"is_error": False}, "Error: no")
    assert failed({"status": "error"}, "ok")


def test_tau_bench_whole():
    trajectories, result = taken(public("tau_bench_airline/gpt-4o-airline_trajectories.json"))
    assert (result.counts.records, result.counts.imported, result.counts.repaired, result.counts.refused) == (140, 95, 45, 0)
    assert result.counts.reasons == {"repeated-call-id": 45}
    assert len({t.task_id for t in trajectories}) == 35
    assert {t.scenario for t in trajectories} == {"tau_bench/airline"}
    assert sum(t.outcome.accepted for t in trajectories) == 43
    assert sum(len(m.tool_calls) for t in trajectories for m in t.messages) == 1001
    assert sum(m.is_error for t in trajectories for m in t.messages) == 70
    assert {len(t.tools) for t in trajectories} == {14}
    called = {c.function.name for t in trajectories for m in t.messages for c in m.tool_calls}
    assert called <= {tool.name for tool in trajectories[0].tools}


def test_workbench_whole():
    trajectories, result = taken(public("workbench/trajectories.jsonl"))
    assert (result.counts.records, result.counts.imported, result.counts.repaired, result.counts.refused) == (3360, 2804, 59, 497)
    assert result.counts.reasons == {"no-assistant-turn": 477, "arguments-not-json": 20, "content-as-json": 59}
    assert sum(t.outcome.accepted for t in trajectories) == 789
    assert len({t.task_id for t in trajectories}) == 420
    assert "customer_relationship_manager.search_customers" in {tool.name for tool in trajectories[0].tools}


@pytest.mark.parametrize(("variant", "calls"), [("base", 583), ("miss_func", 581), ("miss_param", 581), ("long_context", 643)])
def test_bfcl_whole(variant, calls):
    trajectories, result = taken(public(f"bfcl_v4_multi_turn/executed_{variant}.jsonl"))
    assert (result.counts.records, result.counts.imported, result.counts.reasons) == (100, 100, {})
    assert sum(len(m.tool_calls) for t in trajectories for m in t.messages) == calls
    assert len({t.scenario for t in trajectories}) == 100
    assert all(t.scenario.endswith("/long_context") == (variant == "long_context") for t in trajectories)
    groups = {tool.resource_group for t in trajectories for tool in t.tools}
    assert len(groups) == 8
    assert "" not in groups


LATER = [
    "format_samples/toucan_qwen3_row.jsonl",
    "toucan_mcp_tools/mcp_server_tools.jsonl",
    "toolbench_samples/answer/G1_answer/59_ChatGPT_DFS_woFilter_w2.json",
    "stabletoolbench_samples/model_predictions_converted/virtual_chatgpt_cot/G1_instruction.json",
]


@pytest.mark.parametrize("path", LATER)
def test_formats_of_a_later_release_are_named(path):
    with pytest.raises(DataError, match="a format that this release does not read") as refusal:
        recognise(public(path))
    assert refusal.value.problem_slug == "format-of-a-later-release"
