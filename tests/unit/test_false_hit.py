"""Why a hit is false."""

from typing import Any

import pytest

from cacherl.fidelity.false_hit import FalseHit, Served, counted, false_hit
from cacherl.tier import ToolResult

ASKED = Served(b"key", b"here")


def kind(served: Any, true: Any, recording: Served | None = ASKED, *, failed: tuple[bool, bool] = (False, False)) -> FalseHit:
    return false_hit(ToolResult(content=served, is_error=failed[0]), ToolResult(content=true, is_error=failed[1]), recording, ASKED)


def test_the_circumstances_of_the_recording_say_what_went_wrong():
    assert kind("7", "8", Served(b"other", b"here")) is FalseHit.WRONG_ENTITY
    assert kind("7", "8", Served(b"key", b"elsewhere")) is FalseHit.STALE_STATE
    assert kind("7", "8") is FalseHit.NONDETERMINISTIC
    assert kind("7", "8", None) is FalseHit.STALE_STATE


def test_errors_turned_into_successes_come_first():
    assert kind("7", "not found", failed=(False, True)) is FalseHit.ERROR_TO_SUCCESS
    assert kind("not found", "7", Served(b"other", b"x"), failed=(True, False)) is FalseHit.SUCCESS_TO_ERROR


@pytest.mark.parametrize(
    ("served", "true"),
    [
        ('{"id": "6f1d4a52-02c5-4f50-a5ae-8b7d6f3a1c11", "n": 1}', '{"n": 1, "id": "0b6c8b9e-5b7f-4a0e-8f63-9c8f6a1c2d3e"}'),
        ("at 2026-03-01T10:00:00Z", "at 2026-03-02T11:30:00Z"),
        ([{"took": "12 ms"}], [{"took": "9 ms"}]),
    ],
)
def test_what_is_made_anew_each_time_is_told_apart(served: Any, true: Any):
    assert kind(served, true, Served(b"other", b"x")) is FalseHit.VOLATILE_ONLY


def test_a_date_or_a_number_that_differs_is_no_detail():
    assert kind("on 2026-03-01", "on 2026-03-02") is FalseHit.NONDETERMINISTIC
    assert kind("balance 1200", "balance 1300") is FalseHit.NONDETERMINISTIC


def test_kinds_are_counted():
    assert counted([FalseHit.STALE_STATE, FalseHit.WRONG_ENTITY, FalseHit.STALE_STATE]) == {"stale_state": 2, "wrong_entity": 1}
