"""The strictness table of Qwen's parser: what counts as a call, and what each refusal says."""

from typing import Any

import pytest

from cacherl import tool_formats
from cacherl.errors import UsageError

QWEN = tool_formats.of_name("qwen")


def block(inside: str) -> str:
    return f"<tool_call>\n{inside}\n</tool_call>"


GOOD = block('{"name": "f", "arguments": {"a": 1}}')


@pytest.mark.parametrize(
    ("inside", "arguments"),
    [
        ('{"name": "f", "arguments": {}}', {}),
        ('  {"arguments": {"a": [1, null, true, 1.5, "x"]}, "name": "f"}  ', {"a": [1, None, True, 1.5, "x"]}),
        ('{"name": "f", "arguments": {"a": 18446744073709551615, "b": -9223372036854775808}}', {"a": 2**64 - 1, "b": -(2**63)}),
        ('{"name": "f", "arguments": {"a": "\\u00e9 日本 <think>"}}', {"a": "é 日本 <think>"}),
        ('{"name": "f", "arguments": {"a": {"b": {"c": {}}}}}', {"a": {"b": {"c": {}}}}),
    ],
)
def test_a_well_formed_call_is_read(inside: str, arguments: dict[str, Any]):
    (call,) = QWEN.parse(block(inside)).calls
    assert call.error is None
    assert call.call is not None
    assert (call.call.name, call.call.arguments) == ("f", arguments)


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("", "not valid JSON"),
        ("f(a=1)", "not valid JSON"),
        ('{"name": "f", "arguments": {"a": 1}', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": 1,}}', "not valid JSON"),
        ("{'name': 'f', 'arguments': {}}", "not valid JSON"),
        ('{"name": "f", "arguments": {}} trailing', "not valid JSON"),
        ('{"name": "f", "arguments": {}}{"name": "g", "arguments": {}}', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": NaN}}', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": Infinity}}', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "not valid JSON"),
        ('{"name": "f", "arguments": {"a": 18446744073709551616}}', "more than 64 bits"),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "not valid JSON"),
        ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "stands twice"),
        ('{"name": "f", "arguments": ' + '{"a": ' * 70 + "1" + "}" * 70 + "}", "nested deeper"),
        ('{"name": "f", "arguments": ' + '{"a": ' * 3000 + "1" + "}" * 3000 + "}", "not valid JSON"),
        ('[{"name": "f", "arguments": {}}]', "one JSON object"),
        ('"f"', "one JSON object"),
        ('{"name": "f"}', "exactly the keys"),
        ('{"name": "f", "arguments": {}, "id": "1"}', "exactly the keys"),
        ('{"function": "f", "arguments": {}}', "exactly the keys"),
        ('{"name": "", "arguments": {}}', "name must be"),
        ('{"name": "' + "f" * 257 + '", "arguments": {}}', "name must be"),
        ('{"name": 1, "arguments": {}}', "name must be"),
        ('{"name": "f", "arguments": "{}"}', "arguments must be"),
        ('{"name": "f", "arguments": []}', "arguments must be"),
        ('{"name": "f", "arguments": null}', "arguments must be"),
    ],
)
def test_nothing_is_repaired(inside: str, reason: str):
    (call,) = QWEN.parse(block(inside)).calls
    assert call.call is None
    assert reason in (call.error or "")


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (GOOD, ["ok"]),
        (GOOD + "\n" + GOOD, ["ok", "ok"]),
        (GOOD + GOOD, ["ok", "ok"]),
        ("before " + GOOD + " between " + GOOD + " after", ["ok", "ok"]),
        ("<tool_call>\n{", ["was not closed"]),
        ("<tool_call>\n{" + GOOD, ["was not closed", "ok"]),
        (GOOD + "<tool_call>", ["ok", "was not closed"]),
        ("</tool_call>" + GOOD, ["without <tool_call>", "ok"]),
        (GOOD + "</tool_call>", ["ok", "without <tool_call>"]),
        ("no call at all", []),
        ("", []),
    ],
)
def test_every_block_is_seen_once_and_in_order(text: str, spans: list[str]):
    calls = QWEN.parse(text).calls
    assert len(calls) == len(spans)
    end = 0
    for call, expected in zip(calls, spans, strict=True):
        assert end <= call.start < call.end <= len(text)
        end = call.end
        assert expected == "ok" if call.call else expected in (call.error or "")


@pytest.mark.parametrize(
    ("text", "thinking", "closed", "content"),
    [
        ("<think>\nwhy\n</think>\n\nanswer", "why", True, "answer"),
        ("<think>\n\n</think>\n\nanswer", "", True, "answer"),
        ("<think>why</think>answer", "why", True, "answer"),
        ("answer", None, True, "answer"),
        ("", None, True, ""),
        ("<think>\nwhy", "why", False, "<think>\nwhy"),
        ("<think>\n" + GOOD, GOOD, False, "<think>\n" + GOOD),
        ("<think>\na\n</think>\n\nb <think>c</think> d", "a", True, "b <think>c</think> d"),
        ("a </think> b", None, True, "a </think> b"),
        ("<think>\n" + GOOD + "\n</think>\n\nb", GOOD, True, "b"),
    ],
)
def test_thinking_is_told_from_the_answer(text: str, thinking: str | None, closed: bool, content: str):
    parsed = QWEN.parse(text)
    assert (parsed.thinking, parsed.thinking_closed, parsed.content, parsed.calls) == (thinking, closed, content, [])


def test_a_block_that_was_injected_is_not_the_policys_thinking():
    parsed = QWEN.parse("<think>more</think> x", thinking_injected=True)
    assert (parsed.thinking, parsed.content) == (None, "<think>more</think> x")


def test_malformed_calls_stay_visible_in_the_content():
    parsed = QWEN.parse("a\n" + GOOD + "\n<tool_call>oops</tool_call>")
    assert parsed.content == "a\n<tool_call>oops</tool_call>"


def test_an_unknown_format_is_refused():
    with pytest.raises(UsageError, match="qwen"):
        tool_formats.of_name("no such")
