"""Rates over tasks: intervals that stay honest when the calls of a task fail together."""

from random import Random

import pytest

from cacherl.fidelity.rate import TaskHits, clustered_interval, rate
from cacherl.intervals import clopper_pearson


def test_a_rate_counts_hits_over_all_calls_and_false_ones_over_hits():
    found = rate(100, [TaskHits(6, 1), TaskHits(4, 0), TaskHits(0, 0)])
    assert (found.calls, found.hits, found.hit_rate, found.false_hits, found.false_hit_rate) == (100, 10, 0.1, 1, 0.1)
    assert 0 < found.interval[0] < 0.1 < found.interval[1] < 1


def test_without_hits_nothing_is_known():
    assert rate(7, []).model_dump() == {
        "calls": 7, "hits": 0, "hit_rate": 0.0, "false_hits": 0, "false_hit_rate": 0.0, "interval": (0.0, 1.0),
    }  # fmt: skip
    assert rate(0, []).hit_rate == 0.0


def test_without_a_false_hit_the_tasks_count_and_not_their_hits():
    assert clustered_interval([TaskHits(50, 0)] * 20) == pytest.approx(clopper_pearson(0, 20))
    assert clustered_interval([TaskHits(3, 3)] * 20) == pytest.approx(clopper_pearson(20, 20))


def test_one_hit_a_task_is_the_plain_interval():
    tasks = [TaskHits(1, int(n < 30)) for n in range(200)]
    assert clustered_interval(tasks) == pytest.approx(clopper_pearson(30, 200), abs=0.003)


@pytest.mark.parametrize(("share", "together"), [(0.01, False), (0.01, True), (0.05, False), (0.05, True)])
def test_the_upper_end_covers_what_is_true(share: float, together: bool):
    random, covered = Random(11), 0
    for _ in range(200):
        tasks = []
        for _ in range(120):
            hits = random.randint(1, 9)
            tasks.append(TaskHits(hits, (hits if together else 1) if random.random() < share else 0))
        covered += clustered_interval(tasks)[1] >= share * (1.0 if together else 1 / 5)
    assert covered >= 186, "95 % of 200, less what chance takes"
