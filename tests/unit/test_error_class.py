"""Errors by what they depend on; literals in texts; JSON pointers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.error_class import ErrorClass, error_class
from cacherl.literals import as_literal, fields, number_forms, parsed, stands_in
from cacherl.pointer import parts, pointer, remove_at, values_at
from cacherl.tier import ToolResult

TRANSIENT, STATE, DETERMINISTIC = ErrorClass.TRANSIENT, ErrorClass.STATE_DEPENDENT, ErrorClass.DETERMINISTIC
CLASSES = [
    ("Request timed out", TRANSIENT),
    ("HTTP 503", TRANSIENT),
    ("503 Service Unavailable", TRANSIENT),
    ("Rate limit exceeded, try again later", TRANSIENT),
    ("429 Too Many Requests", TRANSIENT),
    ("Connection reset by peer", TRANSIENT),
    ("Internal Server Error", TRANSIENT),
    ({"error": "x", "status": 502}, TRANSIENT),
    ({"error": {"code": "429"}}, TRANSIENT),
    ("Order not found.", STATE),
    ("Error: not enough seats", STATE),
    ("The order is already cancelled", STATE),
    ("404 Not Found", STATE),
    ({"status_code": 409}, STATE),
    ("Permission denied", STATE),
    ("boom", STATE),
    ({"detail": "boom"}, STATE),
    ("Invalid date format", DETERMINISTIC),
    ("missing required argument 'id'", DETERMINISTIC),
    ("timeout must be a positive integer", DETERMINISTIC),
    ("TypeError: f() got an unexpected keyword argument", DETERMINISTIC),
    ({"code": 422, "message": "timed out"}, DETERMINISTIC),
    ("order 503 is invalid", DETERMINISTIC),
    (None, STATE),
]


@pytest.mark.parametrize(("content", "expected"), CLASSES)
def test_the_class_of_an_error(content, expected):
    assert error_class(ToolResult(content=content, is_error=True)) is expected


STANDS = [
    ("A37", "order A37 is", True),
    ("a37", "ORDER A37", True),
    ("A3", "order A37 is", False),
    ("A37", "order XA37", False),
    ("4", "4.5 and 14 and 1,400 and 4:30", False),
    ("4", "it is 4.", True),
    ("4", "4, 5", True),
    ("4.5", "4.5%", True),
    ("in transit", "it is in transit.", True),
    ("id", "order_id", False),
    ("x@y.org", "mail x@y.org now", True),
    ("", "x", False),
]


@pytest.mark.parametrize(("literal", "text", "expected"), STANDS)
def test_a_literal_stands_as_whole_words(literal, text, expected):
    assert (as_literal(literal) is not None and stands_in(literal, text.casefold())) is expected


@given(st.text(min_size=1, max_size=12), st.text(max_size=8), st.text(max_size=8))
def test_a_literal_between_spaces_always_stands(literal, before, after):
    literal = as_literal(literal)
    if literal is not None and literal.casefold() == literal.casefold().strip():
        assert stands_in(literal, f"{before} {literal} {after}".casefold())


def test_literals_of_values():
    values = [True, None, {}, [], "", "  ", "a b", 3, 3.0, 2.5, "w " * 13, "x" * 161, "<p>"]
    assert [as_literal(value) for value in values] == [None] * 6 + ["a b", "3", "3", "2.5", None, None, "<p>"]
    assert number_forms("1234") == ["1,234"]
    assert number_forms("A37") == number_forms("007") == []
    assert number_forms("-1234.5") == ["-1,234.5", "-1,234.50", "-1234.50"]


def test_fields_and_parsed():
    assert list(fields({"a": [1, {"b": None}], "c": "x"})) == [(("a", 0), 1), (("a", 1, "b"), None), (("c",), "x")]
    assert parsed('{"a": 1}') == {"a": 1}
    assert [parsed(text) for text in ("3", "{x", "", "None")] == ["3", "{x", "", "None"]


paths = st.lists(st.text(max_size=4) | st.sampled_from(["a/b", "~1", "~"]), min_size=1, max_size=4)


@given(paths)
def test_pointers_round_trip(path):
    assert parts(pointer(["arguments", *path]), "arguments") == path


def test_pointers_into_values():
    value = {"a": [{"b": 1}, {"b": 2, "c": 3}], "d": {"e/f": 4}}
    assert list(values_at(value, ["a", "b"])) == list(values_at(value, ["a", "*", "b"])) == [1, 2]
    assert list(values_at(value, ["d", "e/f"])) == [4]
    assert list(values_at(value, ["x"])) == []
    remove_at(value, ["a", "b"])
    remove_at(value, ["x", "y"])
    assert value == {"a": [{}, {"c": 3}], "d": {"e/f": 4}}
    assert [parts(text, "arguments") for text in ("/result/a", "/arguments", "", "arguments/a")] == [None] * 4
