"""The deterministic judge: whole tokens, aliases, and the rating."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.reward.facts import facts_rating, stated, tokens
from cacherl.trajectory import Fact


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("12", "There are 12."),
        ("12", "(12)"),
        ("12", "$12 each"),
        ("12", "12.0 in all"),
        ("1200.5", "It costs 1,200.50 EUR."),
        ("-5", "It is -5 degrees."),
        ("Oslo", "oslo's harbour"),
        ("A17", "order #a17"),
        ("New York", "He lives in NEW   york."),
        ("2024-05-01", "on 2024-05-01, a Wednesday"),
        ("10:30", "At 10:30."),
        ("a.b@c.de", "Write to a.b@c.de."),
        ("Straße 5", "strasse 5"),
        ("delivered", "status:delivered"),
        ("007", "agent 007"),
    ],
)
def test_stated(value: str, answer: str):
    assert stated(Fact(value=value), tokens(answer))


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("12", "There are 12.5."),
        ("12", "There are 312."),
        ("12", "on 2024-12-01"),
        ("12", "-12"),
        ("5", "at 10:05"),
        ("A17", "order A175"),
        ("17", "order A-17"),
        ("200", "1,200"),
        ("Oslo", "Oslofjord"),
        ("New York", "york new"),
        ("007", "agent 7"),
        ("!!", "anything !!"),
        ("Oslo", ""),
    ],
)
def test_not_stated(value: str, answer: str):
    assert not stated(Fact(value=value), tokens(answer))


def test_an_alias_will_do():
    assert stated(Fact(value="United Kingdom", aliases=["UK", "Great Britain"]), tokens("It is in the UK."))


def test_rating_is_rounded_down_and_5_means_all():
    facts = [Fact(value=value) for value in ("Oslo", "21", "Friday")]
    assert [facts_rating(text, facts) for text in ("none", "Oslo", "Oslo 21", "Friday in Oslo: 21")] == [0, 1, 3, 5]


def test_without_facts_there_is_no_verdict():
    assert facts_rating("Oslo", None) is None
    assert facts_rating("Oslo", []) is None


@given(text=st.text(max_size=200), value=st.text(min_size=1, max_size=20))
def test_any_text_is_read(text: str, value: str):
    rating = facts_rating(text, [Fact(value=value)])
    assert rating in (0, 5)
    if tokens(value):
        assert facts_rating(f"it is {value} .", [Fact(value=value)]) == 5
