"""What is taken for a secret, and what is not."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cache_api.redact import Redactor

REDACTOR = Redactor("p" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1111",
        "card 4111-1111-1111-1111.",
        "Paid with 4111111111111111, thanks",
        '{"card":4111111111111111}',
        "(4111111111111111)",
    ],
)
def test_a_card_number_is_a_secret_wherever_it_stands(text: str):
    redacted = REDACTOR.value(text)
    assert "1111" not in redacted
    assert "[redacted:" in redacted


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_with_decimals_is_no_card(number: float):
    text = orjson.dumps({"a": number, "of": f"({number!r})", "comma": f"{number:.17f}".replace(".", ",")}).decode()
    assert REDACTOR.value(text) == text


@pytest.mark.parametrize(
    "text", ["33.400001525878906", "wind 3.4111111111111111 m/s", "-0,4111111111111111", "4111111111111111.25", "run-4111111111111111"]
)
def test_digits_within_a_number_or_a_name_are_no_card(text: str):
    assert REDACTOR.value(text) == text
