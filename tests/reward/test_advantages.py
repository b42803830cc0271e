"""What the estimators promise (method §5): the six properties, the witness of arXiv 2609.26866, the edges and the diagnostics."""

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.advantages import Terms, advantages, correlation, estimate
from cacherl.api.reward import Group
from cacherl.errors import ConflictError, InputError
from cacherl.reward import score
from cacherl.score import Estimator, JudgeVotes, RewardConfig, Score, ScoreStatus
from cacherl.tier import Tier
from tests.reward.examples import call, episode, plain_score, task, wanted
from tests.reward.toys import RULES, coverage_toy, quit_toy

TWO_TERMS = [Estimator.ATTRIBUTED, Estimator.SPLIT, Estimator.ASYMMETRIC]
ONE_TERM = RewardConfig(process_weights={"answer_present": 1.0})
UNIT = st.floats(0, 1)


def terms(answers: Sequence[float], process: Sequence[float], trust: Sequence[float], blame: Sequence[float], weight: float = 0.6) -> Terms:
    totals = [weight * rho * r + (1 - weight) * p for r, p, rho in zip(answers, process, trust, strict=True)]
    return Terms(answers, process, totals, trust, blame, weight)


def vectors(size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(UNIT, min_size=size, max_size=size)


SIZED = st.integers(2, 16).flatmap(lambda size: st.tuples(*(vectors(size) for _ in range(4))))


# The six properties


@given(size=st.integers(1, 64), answer=UNIT, process=UNIT, data=st.data(), estimator=st.sampled_from(TWO_TERMS))
@settings(max_examples=150, deadline=None)
def test_1_equal_rewards_give_zero_whatever_the_tiers(size: int, answer: float, process: float, data: st.DataObject, estimator: Estimator):
    trust, blame = data.draw(vectors(size)), data.draw(vectors(size))
    values, _ = estimate(terms([answer] * size, [process] * size, trust, blame), estimator)
    assert all(abs(value) <= 1e-12 for value in values)


@given(data=st.data(), size=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_2_independent_trust_leaves_the_process_term_in_expectation(data: st.DataObject, size: int):
    """β = ρ. Exchangeable and independent of ρ: every assignment of the same answers to the episodes is as likely as any other."""
    answers, process, trust = (data.draw(vectors(size)) for _ in range(3))
    orders = list(itertools.permutations(range(size)))
    expected = [0.0] * size
    for order in orders:
        drawn = terms([answers[i] for i in order], process, trust, trust)
        for estimator in (Estimator.SPLIT, Estimator.ATTRIBUTED):
            values, _ = estimate(drawn, estimator)
            expected = [mean + value / (2 * len(orders)) for mean, value in zip(expected, values, strict=True)]
    alone, _ = estimate(terms([0.0] * size, process, trust, trust), Estimator.SPLIT)
    assert expected == pytest.approx(alone, abs=1e-12)


@given(drawn=SIZED, own=UNIT, place=st.integers(0, 15), estimator=st.sampled_from([Estimator.ATTRIBUTED, Estimator.ASYMMETRIC]))
@settings(max_examples=200, deadline=None)
def test_3_an_episodes_own_trust_helps_the_good_and_leaves_the_bad(
    drawn: tuple[list[float], ...], own: float, place: int, estimator: Estimator
):
    answers, process, trust, blame = drawn
    index = place % len(answers)
    risen = [max(rho, own) if i == index else rho for i, rho in enumerate(trust)]
    (before, _), (after, _) = (estimate(terms(answers, process, rho, blame), estimator) for rho in (trust, risen))
    others = [(rho, r) for i, (rho, r) in enumerate(zip(trust, answers, strict=True)) if i != index]
    whole = math.fsum(rho for rho, _ in others)
    d = answers[index] - math.fsum(rho * r for rho, r in others) / whole if whole >= 0.5 else 0.0
    assert after[index] >= before[index] - 1e-12
    if d <= 1e-9:
        assert after[index] == pytest.approx(before[index], abs=1e-9 if d > 0 else 1e-12)


@given(
    made=st.lists(
        st.builds(call, city=st.sampled_from(["Oslo", "Bergen"]), outcome=st.sampled_from(["exact", "fuzzy", "miss"]), fidelity=UNIT),
        max_size=4,
    ),
    tier=st.sampled_from(["exact", "fuzzy", "best_effort", "miss", "malformed"]),
    fidelity=UNIT,
    mutating=st.booleans(),
    place=st.integers(0, 4),
    rating=st.integers(0, 5),
    others=st.lists(st.tuples(st.integers(0, 5), UNIT), min_size=1, max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_3_an_off_reference_call_never_raises_the_advantage(made, tier, fidelity, mutating, place, rating, others):
    of = task(wanted("weather", "Oslo"), wanted("weather", "Bergen"))
    useless = call("rename", "Rome", tier, fidelity, mutating=mutating, is_error=False)
    at = min(place, len(made))
    beside = [score(episode(call(fidelity=rho), of=of), of, JudgeVotes(name="facts", votes=[r]), RewardConfig()) for r, rho in others]
    values = []
    for calls in (made, [*made[:at], useless, *made[at:]]):
        own = score(episode(*calls, of=of), of, JudgeVotes(name="facts", votes=[rating]), RewardConfig())
        values.append(advantages([Group(task_id="t1", scores=[own, *beside])], RewardConfig()).groups[0].advantages[0])
    assert values[1] <= values[0] + 1e-12


def test_5_and_6_the_two_toys():
    """The table of method §5: 3,000 steps, 5 seeds, to ±0.02."""
    table = {
        "paper": ((0.995, 0.393), (0.997, 0.898)),
        "split": ((0.996, 0.382), (0.993, 0.896)),
        "asymmetric": ((0.012, 0.498), (0.016, 0.359)),
        "attributed": ((0.012, 0.498), (0.993, 0.896)),
    }
    for rule in RULES:
        quits, covers = ([toy(rule, seed) for seed in range(5)] for toy in (quit_toy, coverage_toy))
        for runs, wanted_pair in zip((quits, covers), table[rule], strict=True):
            means = [sum(run[i] for run in runs) / len(runs) for i in (0, 1)]
            assert means == pytest.approx(wanted_pair, abs=0.02), rule


def test_an_exact_hit_beside_the_reference_call_changes_nothing():
    """Path clinging stays cured where every call comes with an off-reference exact hit of fidelity .995."""
    calls, success = (sum(run[i] for run in [coverage_toy("attributed", seed, beside=0.995) for seed in range(3)]) / 3 for i in (0, 1))
    assert (calls, success) == (pytest.approx(0.993, abs=0.02), pytest.approx(0.896, abs=0.02))


# The witness of arXiv 2609.26866


def witness(estimator: Estimator, *, shared: bool, size: int = 16, p: float = 0.5, c: float = 0.9, q: float = 0.8) -> float:
    """The expected policy gradient, exactly, by enumerating every group.

    A policy calls a stochastic tool with probability p: reward 1 with probability q, else 0; otherwise it has a sure reward c. The gradient
    of the logit is the mean over the group of advantage × (action − p); the true one is p(1 − p)(q − c). `shared`: the group sees one draw.
    """
    return math.fsum(
        probability * sum(a * (action - p) for a, action in zip(_values(rewards, estimator), actions, strict=True)) / size
        for probability, rewards, actions in _groups(shared, size, p, c, q)
    )


def _groups(shared: bool, size: int, p: float, c: float, q: float) -> Iterator[tuple[float, list[float], list[int]]]:
    for callers in range(size + 1):
        weight = math.comb(size, callers) * p**callers * (1 - p) ** (size - callers)
        draws = (
            {callers: q, 0: 1 - q} if shared else {k: math.comb(callers, k) * q**k * (1 - q) ** (callers - k) for k in range(callers + 1)}
        )
        for lucky, chance in ({0: 1.0} if callers == 0 else draws).items():
            rewards = [1.0] * lucky + [0.0] * (callers - lucky) + [c] * (size - callers)
            yield weight * chance, rewards, [1] * callers + [0] * (size - callers)


def _values(rewards: list[float], estimator: Estimator) -> list[float]:
    whole = [1.0] * len(rewards)
    return estimate(Terms(rewards, [0.0] * len(rewards), rewards, whole, whole, 1.0), estimator)[0]


def test_the_witness_normalising_reverses_the_gradient():
    p, c, q = 0.5, 0.9, 0.8
    assert pytest.approx(-0.025) == p * (1 - p) * (q - c)
    assert witness(Estimator.STD, shared=False) == pytest.approx(0.006, abs=5e-4)
    assert witness(Estimator.STD, shared=True) == pytest.approx(0.290, abs=5e-4)
    for shared in (False, True):
        assert witness(Estimator.CENTRED, shared=shared) == pytest.approx(-0.0234, abs=5e-5)
        assert witness(Estimator.CENTRED, shared=shared) == pytest.approx(-0.025 * 15 / 16, abs=1e-12)
        # Leaving oneself out of the baseline takes the factor 15/16 away.
        assert witness(Estimator.ATTRIBUTED, shared=shared) == pytest.approx(-0.025, abs=1e-12)


# The estimators, by hand


def test_attributed_by_hand():
    values, untrusted = estimate(terms([1.0, 0.0, 0.5], [1.0, 0.5, 0.0], [0.5, 1.0, 1.0], [1.0, 0.25, 1.0]), Estimator.ATTRIBUTED)
    assert untrusted == 0
    assert values[0] == pytest.approx(0.6 * 0.5 * (1.0 - 0.25) + 0.4 * (1.0 - 0.25))
    assert values[1] == pytest.approx(0.6 * 0.25 * (0.0 - (0.5 * 1 + 0.5) / 1.5) + 0.4 * (0.5 - 0.5))
    assert values[2] == pytest.approx(0.6 * 1.0 * (0.5 - 0.5 / 1.5) + 0.4 * (0.0 - 0.75))


def test_split_and_asymmetric_differ_in_the_blame_alone():
    given_terms = terms([1.0, 0.0], [0.5, 0.5], [1.0, 0.6], [1.0, 0.1])
    by_rule = {rule: estimate(given_terms, rule)[0] for rule in TWO_TERMS}
    assert by_rule[Estimator.SPLIT][1] == pytest.approx(0.6 * 0.6 * -1.0)
    assert by_rule[Estimator.ASYMMETRIC][1] == pytest.approx(0.6 * 1.0 * -1.0)
    assert by_rule[Estimator.ATTRIBUTED][1] == pytest.approx(0.6 * 0.1 * -1.0)
    assert len({values[0] for values in map(tuple, by_rule.values())}) == 1


@given(drawn=SIZED)
@settings(max_examples=100, deadline=None)
def test_centred_and_std_sum_to_zero(drawn: tuple[list[float], ...]):
    given_terms = terms(*drawn)
    for estimator in (Estimator.CENTRED, Estimator.STD):
        values, _ = estimate(given_terms, estimator)
        assert math.fsum(values) == pytest.approx(0.0, abs=1e-6)
    values, _ = estimate(given_terms, Estimator.STD)
    spread = math.fsum(value * value for value in values) / len(values)
    assert spread == pytest.approx(1.0) or all(value == 0.0 for value in values)


# Edges


def group(*scores: Score) -> Group:
    return Group(task_id="t1", scores=[each.model_copy(update={"episode_id": f"eps_{i}"}) for i, each in enumerate(scores)])


@pytest.mark.parametrize("estimator", list(Estimator))
def test_one_scored_episode_has_advantage_0_and_is_counted(estimator: Estimator):
    lost = plain_score(1.0, 1.0).model_copy(update={"status": ScoreStatus.UNSCORABLE, "total": None, "r_answer": None, "r_process": None})
    answer = advantages([group(plain_score(1.0, 1.0), lost)], ONE_TERM, estimator)
    assert answer.groups[0].advantages == [0.0, None]
    assert answer.diagnostics["single"] == 1
    assert answer.diagnostics["unscorable"] == 1


def test_unscored_episodes_are_null_and_left_out_of_every_mean():
    first, second = plain_score(1.0, 1.0), plain_score(0.0, 0.5)
    silent = plain_score(1.0, 0.1).model_copy(update={"status": ScoreStatus.ABSTAINED, "total": None, "r_answer": None})
    for estimator in Estimator:
        alone = advantages([group(first, second)], ONE_TERM, estimator).groups[0].advantages
        answer = advantages([group(first, silent, second)], ONE_TERM, estimator)
        assert answer.groups[0].advantages == [alone[0], None, alone[1]]
        assert (answer.diagnostics["episodes"], answer.diagnostics["scored"], answer.diagnostics["abstained"]) == (3, 2, 1)


def test_a_group_without_a_scored_episode():
    lost = Score(episode_id="eps_1", episode_hash="", status=ScoreStatus.UNSCORABLE)
    answer = advantages([Group(task_id="t1", scores=[lost, lost])], RewardConfig())
    assert answer.groups[0].advantages == [None, None]
    assert answer.groups[0].diagnostics["mean_trust"] is None
    assert answer.groups[0].diagnostics["zero_advantage"] == 1


def test_too_little_trust_among_the_others_drops_the_answer_term():
    answer = advantages([group(plain_score(1.0, 1.0, trust=1.0), plain_score(0.0, 0.5, trust=0.49))], ONE_TERM)
    # The first has .49 beside it: no answer term. The second has 1.0.
    assert answer.groups[0].advantages == [pytest.approx(0.4 * 0.5), pytest.approx(0.6 * -1.0 + 0.4 * -0.5)]
    assert answer.diagnostics["no_answer_term"] == 1
    enough = advantages([group(plain_score(1.0, 1.0, trust=1.0), plain_score(0.0, 0.5, trust=0.5))], ONE_TERM)
    assert enough.diagnostics["no_answer_term"] == 0


def test_without_a_reference_answer_the_process_term_is_whole():
    answer = advantages([group(plain_score(None, 1.0), plain_score(None, 0.5))], ONE_TERM)
    assert answer.groups[0].advantages == [0.5, -0.5]
    assert answer.diagnostics["no_answer_term"] == 0


def test_scores_of_another_configuration_are_refused():
    of = task(wanted("weather", "Oslo"))
    robust, paper = (score(episode(call(), of=of), of, JudgeVotes(name="facts", votes=[3]), config) for config in (RewardConfig(), PAPER))
    foreign = [
        ([robust, paper], RewardConfig()),
        ([paper, paper], RewardConfig()),
        ([robust, robust], PAPER),
        ([robust, robust], RewardConfig(answer_weight=0.5)),
        ([robust, robust], RewardConfig(process_weights={"match": 1.0})),
        ([robust, robust], RewardConfig(judge="other")),
        ([paper, paper], RewardConfig(preset="paper", alpha={**PAPER.alpha, "exact": 0.5})),
        ([robust.model_copy(update={"total": 0.9})], RewardConfig()),
    ]
    for scores, config in foreign:
        with pytest.raises(ConflictError) as caught:
            advantages([group(*scores)], config)
        assert caught.value.problem_slug == "mixed-configurations"
    assert advantages([group(robust, robust)], RewardConfig()).estimator is Estimator.ATTRIBUTED
    assert advantages([group(paper, paper)], PAPER).estimator is Estimator.STD


def test_scores_of_two_tasks_in_one_group_are_refused():
    with pytest.raises(ConflictError) as caught:
        advantages([group(plain_score(1.0, 1.0), plain_score(None, 1.0))], ONE_TERM)
    assert caught.value.problem_slug == "mixed-scores"
    with pytest.raises(InputError):
        advantages([group(plain_score(1.0, 1.0))], RewardConfig(process_weights={"charm": 1.0}))


PAPER = RewardConfig(preset="paper")


# Diagnostics


def test_diagnostics_name_what_is_wrong_with_a_batch():
    tiers = [Tier.EXACT, Tier.FUZZY, None, Tier.MISS]
    scores = [
        plain_score(1.0, 1.0, trust=rho).model_copy(update={"worst_tier": tier, "judge": JudgeVotes(name="facts", votes=[5])})
        for rho, tier in zip((1.0, 0.05, 0.0, 0.0), tiers, strict=True)
    ]
    found = advantages([group(*scores)], ONE_TERM)
    assert {
        name: found.diagnostics[name] for name in ("share_exact", "share_fuzzy", "share_best_effort", "share_miss", "share_no_call")
    } == {
        "share_exact": 0.25,
        "share_fuzzy": 0.25,
        "share_best_effort": 0.0,
        "share_miss": 0.25,
        "share_no_call": 0.25,
    }
    assert found.diagnostics["share_low_trust"] == 0.75
    assert found.diagnostics["mean_blame"] == 1.0
    assert found.diagnostics["zero_advantage"] == 1
    assert found.alarms == ["low_trust", "zero_advantage_groups"]
    assert advantages([group(*(plain_score(r, 1.0) for r in (1.0, 0.0)))], ONE_TERM).alarms == []


def test_the_papers_rule_raises_the_alarm_of_tier_seeking():
    """Under `paper` those that missed are paid more; the correlation of trust with the advantage shows it."""
    paper = RewardConfig(preset="paper", process_weights={"answer_present": 1.0})
    scores = []
    for index in range(32):
        missed = index % 2 == 0
        of = task()
        scores.append(score(episode(call(outcome="miss" if missed else "exact"), of=of), of, JudgeVotes(name="facts", votes=[2]), paper))
    answer = advantages([group(*scores)], paper)
    assert all((value or 0.0) > 0 for value in answer.groups[0].advantages[::2])
    robust = RewardConfig(process_weights={"answer_present": 1.0})
    of = task()
    again = [
        score(episode(call(outcome="miss" if index % 2 == 0 else "exact"), of=of), of, JudgeVotes(name="facts", votes=[2]), robust)
        for index in range(32)
    ]
    cured = advantages([group(*again)], robust)
    assert all(abs(value or 0.0) <= 1e-12 for value in cured.groups[0].advantages)
    tilted = [plain_score(0.0 if rho else 1.0, 0.5, trust=rho) for rho in (0.2, 1.0) * 16]
    assert "missing_is_rewarded" not in advantages([group(*tilted[:30])], ONE_TERM).alarms
    seeking = [plain_score(0.0, p, trust=rho) for rho, p in ((0.0, 1.0), (1.0, 0.0)) * 16]
    assert "missing_is_rewarded" in advantages([group(*seeking)], ONE_TERM).alarms


def test_correlation():
    assert correlation([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == pytest.approx(1.0)
    assert correlation([0.0, 1.0], [1.0, 0.0]) == pytest.approx(-1.0)
    assert correlation([1.0, 1.0], [0.0, 1.0]) is None
    assert correlation([1.0], [0.0]) is None
