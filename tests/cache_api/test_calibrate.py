"""Calibration as pure functions: what leaves, what is near, bounds, pools, fidelity."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from cacherl.tool_spec import Annotations, Function, ToolSpec
from services.cache_api.calibration.draw import draw_order, drawn_tasks
from services.cache_api.calibration.evidence import Evidence, evidence
from services.cache_api.calibration.fidelity import Hit, shrunk, steps
from services.cache_api.calibration.learn_then_test import TaskCount, loosest, losses, tasks_required, upper_bound
from services.cache_api.calibration.levels import FUZZY, PATH
from services.cache_api.calibration.pools import pool_of
from services.cache_api.calibration.replay import Kept, Recorded, Replayed, Replayer, ToolReplay
from services.cache_api.embed import HashingEmbedder


def recorded(text: str, digest: str, *, task: str = "t", source: str | None = None, scenario: str = "s") -> Recorded:
    return Recorded(
        key=text.encode(),
        identity=b"i",
        scoped_state=b"",
        scenario=scenario,
        source=source or task,
        task=task,
        digest=digest.encode(),
        arguments={"query": text},
    )


def kept(rows: Sequence[Recorded]) -> list[Kept]:
    """What the database would say of these recordings."""
    support = Counter((row.place, row.key, row.digest) for row in rows)
    arguments = {row.key: row.arguments for row in rows}
    return [Kept(place, key, digest, support[place, key, digest], arguments[key]) for place, key, digest in sorted(support)]


def replay(rows: list[Recorded], tasks: int = 9, drawn: list[Recorded] | None = None) -> list[Replayed]:
    replayer = Replayer("tool", rows if drawn is None else drawn, None, dict.fromkeys({r.scenario for r in rows}, tasks), HashingEmbedder())
    replayer.take(kept(rows))
    return replayer.calls


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


def test_the_majority_of_what_others_recorded_is_what_would_be_served():
    rows = [recorded("q", digest, task=f"t{n}") for n, digest in enumerate("xxxxyy")]
    assert [call.exact for call in replay(rows)] == [True, True, True, True, False, False]
    rows = [recorded("q", digest, task=f"t{n}") for n, digest in enumerate("xxy")]
    assert [call.exact for call in replay(rows)] == [False, False, False], "without one x there is a tie, which falls by digest"


def test_a_drawn_call_is_compared_with_all_that_was_recorded():
    drawn = [recorded("when does the museum open", "9", task="a")]
    (call,) = replay([*drawn, recorded("when does the museum open today", "9", task="b")], drawn=drawn)
    assert (call.exact, call.fuzzy, call.nearest) == (None, True, True)
    assert 0.5 < (call.similarity or 0) < 1
    (misled,) = replay([*drawn, recorded("when does the museum open today", "8", task="b")], drawn=drawn)
    assert (misled.fuzzy, misled.nearest) == (False, False)
    assert (misled.misled, misled.astray) == (misled.similarity, misled.cosine)


def test_a_call_that_only_its_own_task_recorded_is_no_neighbour():
    rows = [recorded("when does the museum open", "9", task="a"), recorded("when does the museum open today", "8", task="a")]
    assert [(call.similarity, call.misled) for call in replay(rows)] == [(None, 0.0)] * 2


def test_the_bound_is_one_minus_the_root_and_299_clean_tasks_reach_one_percent():
    assert tasks_required(0, 0.01) == 299
    assert upper_bound(0, 299) <= 0.01 < upper_bound(0, 298)
    assert upper_bound(0, 35) == pytest.approx(1 - 0.05 ** (1 / 35), abs=1e-6)
    assert (upper_bound(0, 0), upper_bound(3, 3)) == (1.0, 1.0)
    for loss, tasks in ((1, 50), (3, 80), (0.4, 120)):
        bound = upper_bound(loss, tasks)
        assert bound > loss / tasks
        assert binom.cdf(loss, tasks, bound) <= 0.05, "never tighter than the exact bound of whole losses"
        assert tasks_required(loss, bound) == tasks


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_mean_loss_is_at_least_the_share_of_false_calls_of_an_average_task(counted: list[tuple[int, int]]):
    counts = [TaskCount(calls, min(calls, false)) for calls, false in counted]
    found = losses(counts)
    assert all(0 <= loss <= 1 for loss in found)
    assert sum(found) / len(found) >= sum(task.false / task.calls for task in counts) / len(counts) - 1e-9
    mean = sum(task.calls for task in counts) / len(counts)
    if all(task.false <= mean for task in counts):
        assert sum(found) / len(found) >= sum(task.false for task in counts) / sum(task.calls for task in counts) - 1e-9


def test_the_bound_covers_the_risk_of_tasks_that_fail_together():
    """Two hundred draws of 150 tasks whose calls fail together: the bound lies below the true risk in no more than its 5 %."""
    random, missed, risk = Random(7), 0, 0.0
    for _ in range(200):
        tasks = []
        for _ in range(150):
            calls = random.randint(1, 9)
            tasks.append(TaskCount(calls, random.randint(1, calls) if random.random() < 0.06 else 0))
        found = losses(tasks)
        risk = 0.06 * 3 / 5  # the mean of false over the mean of calls
        missed += upper_bound(sum(found), len(found)) < risk
    assert missed <= 10


def test_levels_are_tested_from_the_strictest_and_the_first_that_fails_ends_it():
    def of(bad: int) -> list[TaskCount]:
        return [TaskCount(1, int(n < bad)) for n in range(400)]

    held, first = loosest({0: of(0), 1: of(1), 2: of(9), 3: of(0)}, 0.02)
    assert (held and held.level, first.level) == (1, 0)
    none, first = loosest({0: of(9), 1: of(0)}, 0.02)
    assert (none, first.loss) == (None, 9)


def calls(kind: str, count: int, **fields: Any) -> list[Replayed]:
    return [Replayed(f"{kind}{n}", **fields) for n in range(count)]


def found(*replays: ToolReplay, target: float = 0.05, floor: float = 0.5) -> Evidence:
    return evidence(replays, target_false=target, floor=floor)


def test_the_threshold_is_the_loosest_before_the_first_that_fails_and_no_hit_is_served_wrongly_for_want_of_a_right_one():
    right = calls("t", 60, similarity=0.7, fuzzy=True, cosine=0.9, nearest=True)
    wrong = calls("w", 10, similarity=0.62, fuzzy=False, cosine=0.9, nearest=False)
    fuzzy = next(t for t in found(ToolReplay("tool", "read/text", right + wrong)).tools if t.tier == "fuzzy")
    assert (fuzzy.earned, fuzzy.threshold, fuzzy.false_hits) == (True, 0.65, 0)
    misled = calls("m", 10, exact=True, misled=0.97)
    none = next(t for t in found(ToolReplay("tool", "read/text", right + misled)).tools if t.tier == "fuzzy")
    assert (none.earned, none.threshold) == (False, None)


def test_what_is_false_in_total_counts_so_exact_errors_leave_nothing_to_earn():
    right = calls("t", 400, similarity=0.9, fuzzy=True, cosine=0.9, nearest=True)
    assert found(ToolReplay("tool", "read/text", right), target=0.01).pools[0].earned
    spoiled = ToolReplay("tool", "read/text", right + calls("e", 20, exact=False))
    fuzzy = found(spoiled, target=0.01).pools[0]
    assert (fuzzy.earned, fuzzy.false_hits) == (False, 20)
    assert (fuzzy.n_required or 0) > 2000


def test_tools_of_one_pool_earn_together_and_those_of_another_do_not_help():
    few = [ToolReplay(f"tool{n}", "read/text", calls(f"{n}-", 60, similarity=0.9, fuzzy=True, cosine=0.9, nearest=True)) for n in range(5)]
    alone = found(few[0], target=0.01)
    assert (alone.pools[0].earned, alone.pools[0].n_required) == (False, 299)
    together = found(*few, target=0.01)
    assert all(tool.earned for tool in together.tools if tool.tier == "fuzzy")
    apart = found(few[0], *(ToolReplay(one.tool, "mutating/text", one.calls) for one in few[1:]), target=0.01)
    assert {(pool.pool, pool.earned, pool.n_required) for pool in apart.pools if pool.tier == "fuzzy"} == {
        ("read/text", False, 299),
        ("mutating/text", False, 299),
    }


def test_a_tool_that_is_wrong_where_its_pool_is_right_serves_nothing():
    good = ToolReplay("good", "read/text", calls("t", 3000, similarity=0.9, fuzzy=True))
    bad = ToolReplay("bad", "read/text", calls("b", 12, similarity=0.9, fuzzy=False))
    tools = {t.tool: t for t in found(good, bad, floor=0.9).tools if t.tier == "fuzzy"}
    assert (tools["good"].earned, tools["bad"].earned) == (True, False)


def test_a_wider_target_never_takes_a_hit_away():
    right = calls("t", 100, similarity=0.97, fuzzy=True)
    doubtful = calls("d", 6, similarity=0.52, fuzzy=False)
    served = [
        next(t for t in found(ToolReplay("tool", "read/text", right + doubtful), target=target, floor=0.9).tools if t.tier == "fuzzy")
        for target in (0.05, 0.5)
    ]
    assert [tool.earned for tool in served] == [True, True]
    assert 0.52 < (served[1].threshold or 0) <= (served[0].threshold or 0), "the floor ends it where the wrong ones begin"


def test_best_effort_is_earned_only_where_fuzzy_is_at_its_loosest():
    far = calls("t", 400, similarity=0.1, fuzzy=True, cosine=0.7, nearest=True)
    tool = ToolReplay("notes", "mutating/text", far)
    fuzzy, best_effort = found(tool, target=0.01).pools
    assert (fuzzy.threshold, best_effort.earned, best_effort.threshold) == (FUZZY[-1], True, 0.0)
    astray = ToolReplay("notes", "mutating/text", [*far, *calls("a", 30, exact=True, misled=0.3, astray=0.85)])
    _, best_effort = found(astray, target=0.01).pools
    assert (best_effort.earned, best_effort.threshold) == (True, 0.9)


def test_a_pool_where_scenarios_have_one_task_says_so():
    within = ToolReplay("tool", "read/text", calls("t", 3, within_task=True, similarity=0.9, fuzzy=True))
    assert [pool.within_task for pool in found(within).pools] == [True, True]


def test_only_tasks_that_were_drawn_for_all_of_a_pools_tools_count():
    tasks = sorted((f"t{n}" for n in range(100)), key=draw_order)
    whole = ToolReplay("a", "read/text", [Replayed(task, similarity=0.9, fuzzy=True) for task in tasks])
    part = ToolReplay("b", "read/text", [Replayed(task, similarity=0.9, fuzzy=True) for task in tasks[:40]], cut=draw_order(tasks[39]))
    assert found(whole, part).pools[0].tasks == 40


def test_the_path_never_serves_less():
    random = Random(3)
    replayed = [
        Replayed(
            f"t{n}",
            similarity=(alike := random.random()),
            fuzzy=random.random() < 0.5,
            cosine=random.random(),
            nearest=random.random() < 0.5,
            misled=random.random() * alike,
            astray=random.random(),
        )
        for n in range(200)
    ]
    for stricter, looser in pairwise(PATH):
        assert all(looser.answer(call) is not None for call in replayed if stricter.answer(call) is not None)
        assert all(looser.false(call) for call in replayed if stricter.false(call))


def test_fidelity_never_falls_with_similarity_and_is_drawn_to_the_pool():
    edges = (0.5, 0.7, 0.9)
    pool = [Hit(0.95, True)] * 500 + [Hit(0.75, True)] * 250 + [Hit(0.75, False)] * 250 + [Hit(0.55, False)] * 500
    told = {step.similarity: step.fidelity for step in steps([], pool, edges)}
    assert (told[0.5] < 0.05, 0.45 < told[0.7] < 0.55, told[0.9] > 0.95) == (True, True, True)
    mine = steps([Hit(0.6, True)] * 1000 + [Hit(0.95, False)] * 10, pool, edges)
    values = [step.fidelity for step in mine]
    assert values == sorted(values)
    assert mine[0].fidelity > 0.9, "much of its own says more than the pool"
    assert shrunk([], 0.3) == pytest.approx(0.3)
    assert 0.3 < shrunk([True] * 3, 0.3) < 1


def test_no_shrinkage_helps_a_pool_to_earn():
    good = ToolReplay("tool", "read/text", calls("t", 1000, similarity=1.0, fuzzy=True))
    few = ToolReplay("few", "mutating/text", calls("u", 5, similarity=1.0, fuzzy=True))
    told = {(t.tool, t.tier): t for t in found(good, few, target=0.01).tools}
    assert told["tool", "fuzzy"].earned
    assert (told["few", "fuzzy"].earned, told["few", "fuzzy"].n_required) == (False, 299)


def test_pools_are_kinds_of_tools_and_classes_of_arguments():
    def spec(mutating: bool | None) -> ToolSpec:
        parameters: dict[str, Any] = {"properties": {"query": {"type": "string"}, "id": {"type": "string"}}}
        return ToolSpec(function=Function(name="x", parameters=parameters), annotations=Annotations(mutating=mutating))

    assert pool_of(spec(False), [{}]) == "read/none"
    assert pool_of(spec(False), [{}, {"id": "A17"}]) == "read/identifier"
    assert pool_of(spec(None), [{"id": "A17"}, {"query": "when does it open today"}]) == "mutating/text"
    assert pool_of(None, []) == "mutating/none"


def test_whole_tasks_are_drawn_in_one_order_for_every_tool():
    calls_of = [(f"t{n}", 3) for n in range(10)]
    tasks, cut = drawn_tasks(calls_of, most=10)
    assert (len(tasks), tasks) == (3, sorted((t for t, _ in calls_of), key=draw_order)[:3])
    assert cut == draw_order(tasks[-1])
    assert drawn_tasks(reversed(calls_of), most=30) == (sorted((t for t, _ in calls_of), key=draw_order), None)
    assert drawn_tasks([("one", 50)], most=10)[0] == ["one"], "a task is never cut"
