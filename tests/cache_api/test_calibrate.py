"""Calibration as pure functions: bounds, thresholds, what is left out."""

import pytest
from scipy.stats import binom

from services.cache_api.calibrate import GRID, Recorded, Replayed, Replayer, ToolReplay, calibrated, shrunk, tasks_required, upper_bound
from services.cache_api.embed import HashingEmbedder


def recorded(key: str, digest: str, *, task: str = "t", source: str | None = None, scenario: str = "s") -> Recorded:
    return Recorded(
        key=key.encode(),
        identity=b"i",
        scoped_state=b"",
        scenario=scenario,
        source=source or task,
        task=task,
        digest=digest.encode(),
        transient=False,
        arguments={"query": key},
    )


def replay(rows: list[Recorded], tasks: int = 9) -> list[Replayed]:
    return Replayer("tool", rows, None, dict.fromkeys({row.scenario for row in rows}, tasks), HashingEmbedder()).replay().calls


def test_a_task_leaves_whole_so_its_own_trials_prove_nothing():
    rows = [recorded("one call", "x", task="a", source=f"a{n}") for n in range(3)]
    assert [call.exact for call in replay(rows)] == [None] * 3
    assert [call.exact for call in replay([*rows, recorded("one call", "y", task="b")])] == [False] * 4


def test_where_a_scenario_has_one_task_the_source_leaves_alone():
    calls = replay([recorded("one call", "x", task="a", source=f"a{n}") for n in range(3)], tasks=1)
    assert [(call.exact, call.within_task) for call in calls] == [(True, True)] * 3


def test_other_scenarios_and_states_are_never_counted_as_hits():
    assert [c.exact for c in replay([recorded("a call", "x", task="a"), recorded("a call", "x", task="b", scenario="other")])] == [
        None,
        None,
    ]


def test_the_bound_covers_and_299_clean_tasks_reach_one_percent():
    assert tasks_required(0, 0.01) == 299
    assert upper_bound(0, 299) <= 0.01 < upper_bound(0, 298)
    assert upper_bound(0, 0) == 1.0
    for bad, tasks in ((1, 50), (3, 80)):
        assert binom.cdf(bad, tasks, upper_bound(bad, tasks)) == pytest.approx(0.05)


def tool(calls: list[Replayed]) -> ToolReplay:
    return ToolReplay("tool", calls)


def test_the_threshold_is_the_loosest_before_the_first_that_fails():
    right = [Replayed(f"t{n}", False, similarity=0.7, fuzzy=True, nearest=True) for n in range(60)]
    wrong = [Replayed(f"w{n}", False, similarity=0.62, fuzzy=False, nearest=False) for n in range(10)]
    fuzzy = next(t for t in calibrated([tool(right + wrong)], target_false=0.05, floor=0.5) if t.tier == "fuzzy")
    assert (fuzzy.earned, fuzzy.threshold, fuzzy.false_hits) == (True, 0.65, 0)
    misled = [Replayed(f"m{n}", False, exact=True, misled=0.97) for n in range(10)]
    none = next(t for t in calibrated([tool(right + misled)], target_false=0.05, floor=0.5) if t.tier == "fuzzy")
    assert (none.earned, none.threshold) == (False, None)


def test_no_shrinkage_helps_a_tool_to_earn_and_fidelity_is_drawn_to_the_pool():
    good = [Replayed(f"t{n}", False, similarity=1.0, fuzzy=True, nearest=True) for n in range(1000)]
    few = ToolReplay("few", [Replayed(f"t{n}", False, similarity=1.0, fuzzy=True, nearest=True) for n in range(5)])
    found = {(t.tool, t.tier): t for t in calibrated([tool(good), few], target_false=0.01, floor=0.5)}
    assert found["tool", "fuzzy"].earned
    assert (found["few", "fuzzy"].earned, found["few", "fuzzy"].n_required) == (False, 299)
    assert found["few", "fuzzy"].fidelity > 0.99
    assert shrunk([], 0.3) == pytest.approx(0.3)
    assert 0.3 < shrunk([True] * 3, 0.3) < 1
    assert tuple(sorted(GRID, reverse=True)) == GRID
