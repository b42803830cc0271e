"""Names that MCP clients can take: always valid, never two alike, and each leads back."""

import re

from hypothesis import given
from hypothesis import strategies as st

from cacherl.mcp_proxy.names import NameRule, ToolNames

VALID = {NameRule.MCP: re.compile(r"[A-Za-z0-9._-]{1,128}"), NameRule.PLAIN: re.compile(r"[A-Za-z0-9_-]{1,64}")}


@given(st.sets(st.text(min_size=1, max_size=200), max_size=20), st.sampled_from(NameRule))
def test_every_tool_has_a_valid_name_of_its_own_that_leads_back(tools: set[str], rule: NameRule) -> None:
    names = ToolNames(tools, rule)
    shown = {tool: names.shown(tool) for tool in tools}
    assert all(VALID[rule].fullmatch(name) for name in shown.values())
    assert len(set(shown.values())) == len(tools)
    assert {names.tool(name) for name in shown.values()} == tools


def test_a_name_that_fits_stays_as_it_is() -> None:
    names = ToolNames(["calendar.create-event_2"])
    assert names.shown("calendar.create-event_2") == "calendar.create-event_2"
    assert ToolNames(["a.b"], NameRule.PLAIN).shown("a.b") == "a_b"


def test_two_that_would_be_one_are_told_apart_and_the_one_that_fits_keeps_its_name() -> None:
    names = ToolNames(["a.b", "a b", "a_b"], NameRule.PLAIN)
    assert names.shown("a_b") == "a_b"
    assert len({names.shown(tool) for tool in ("a.b", "a b", "a_b")}) == 3
    assert ToolNames(["a b", "a_b", "a.b"], NameRule.PLAIN).shown("a b") == names.shown("a b"), "whatever the order"


def test_long_names_are_cut_and_told_apart() -> None:
    long = ["x" * 200 + end for end in "ab"]
    names = ToolNames(long)
    assert {len(names.shown(tool)) for tool in long} == {128}
    assert names.shown(long[0]) != names.shown(long[1])


def test_a_name_that_is_nobodys_stays_as_it_is() -> None:
    assert ToolNames(["a"]).tool("b") == "b"
