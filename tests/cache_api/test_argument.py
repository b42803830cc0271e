"""What counts as the same thing: sets that must merge and sets that must stay distinct."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.tool_spec import Annotations, Function, ToolSpec
from services.cache_api.argument import identity, inflected, jaccard, likeness, pairs, texts, veto
from services.cache_api.embed import DIMENSION, HashingEmbedder, call_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


def alike(a: dict[str, Any], b: dict[str, Any], spec: ToolSpec | None = None) -> float:
    """0 where the calls name different things, else how alike their texts are."""
    return likeness(texts(a, spec), texts(b, spec)) if identity("tool", a, spec) == identity("tool", b, spec) else 0.0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"query": "how to return a lamp"}, {"query": "how do I return a lamp?"}),
        ({"query": "refund policy for lamps"}, {"query": "policy for refunds, lamp"}),
        ({"query": "Find the opening hours"}, {"query": "opening hours"}),
        ({"id": "A17", "note": "please call back soon"}, {"id": "A17", "note": "call back soon please"}),
    ],
)
def test_must_merge(a: dict[str, Any], b: dict[str, Any]):
    assert alike(a, b) >= 0.6


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"city": "San Jose"}, {"city": "San Francisco"}),
        ({"query": "weather in San Jose"}, {"query": "weather in San Francisco"}),
        ({"query": "order 1041 status please"}, {"query": "order 1042 status please"}),
        ({"query": "flights from rome to oslo"}, {"query": "flights from oslo to rome"}),
        ({"query": "items that are in stock"}, {"query": "items that are not in stock"}),
        ({"query": "mails before monday"}, {"query": "mails after monday"}),
        ({"query": "mail to ann@example.org today"}, {"query": "mail to bob@example.org today"}),
        ({"date": "2026-01-01"}, {"date": "2026-01-02"}),
        ({"amount": 5}, {"amount": 6}),
        ({"amount": 5}, {"amount": "5"}),
        ({"flag": True}, {"flag": 1}),
        ({"path": "/a/b"}, {"path": "/a/c"}),
        ({"query": "opening hours", "page": 1}, {"query": "opening hours"}),
        ({"query": "opening hours", "ids": []}, {"query": "opening hours", "ids": ["a"]}),
    ],
)
def test_must_stay_distinct(a: dict[str, Any], b: dict[str, Any]):
    assert alike(a, b) == alike(b, a) == 0.0


def test_schema_and_annotations_say_what_names_a_thing():
    asked, other = {"text": "the long way round"}, {"text": "the long way home"}
    assert alike(asked, other) > 0
    listed = {"type": "object", "properties": {"text": {"type": "string", "enum": [asked["text"], other["text"]]}}}
    assert alike(asked, other, ToolSpec(function=Function(name="tool", parameters=listed))) == 0
    named = ToolSpec(function=Function(name="tool"), annotations=Annotations(identifier=["/arguments/text"]))
    assert alike(asked, other, named) == 0


@given(ARGUMENTS, ARGUMENTS)
@settings(max_examples=150, deadline=None)
def test_likeness_is_symmetric_bounded_and_one_for_itself(a: dict[str, Any], b: dict[str, Any]):
    assert alike(a, a) == 1.0
    assert alike(a, b) == alike(b, a)
    assert 0.0 <= alike(a, b) <= 1.0
    assert jaccard(pairs(a), pairs(b)) == jaccard(pairs(b), pairs(a))
    assert jaccard(pairs(a), pairs(a)) == 1.0


def test_forms_of_a_word_are_one_and_other_words_are_not():
    assert inflected("open", "opening")
    assert inflected("refunds", "refund")
    assert not inflected("bakery", "gallery")
    assert not inflected("contract", "contrast")
    assert veto("in the morning", "in the evening") is None


@given(st.lists(ARGUMENTS, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_embeddings_are_deterministic_and_never_zero(calls: list[dict[str, Any]]):
    told = [call_text("tool", arguments) for arguments in calls]
    first, second = HashingEmbedder().embed(told), HashingEmbedder().embed(told)
    assert first == second
    for vector in first:
        numbers = [float(part) for part in vector.strip("[]").split(",")]
        assert len(numbers) == DIMENSION
        assert sum(x * x for x in numbers) == pytest.approx(1.0, abs=0.01)
