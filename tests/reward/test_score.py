"""What an episode is worth: terms, trust, blame, clamps, edges (method §5)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.engine import FinishReason
from cacherl.episode import Episode, EpisodeCall, EpisodeStatus, StopReason
from cacherl.errors import InputError
from cacherl.metrics import call_f1, process_accuracy
from cacherl.reward import PAPER_WEIGHTS, ROBUST_WEIGHTS, agreement, checked, facts_verdict, needs_verdict, score
from cacherl.score import JudgeVotes, RewardConfig, Score, ScoreStatus
from cacherl.tier import Agreement, CallOutcome
from cacherl.tool_call import ToolCall
from cacherl.trajectory import Message, Role, Task
from tests.reward.examples import TOOLS, call, episode, task, wanted

ROBUST, PAPER = RewardConfig(), RewardConfig(preset="paper")
OSLO, BERGEN = wanted("weather", "Oslo"), wanted("weather", "Bergen")
TIERS = ("exact", "fuzzy", "best_effort", "miss")


def rated(*votes: int) -> JudgeVotes:
    return JudgeVotes(name="facts", votes=list(votes))


def scored(made: Episode, of: Task, verdict: JudgeVotes | None = None, config: RewardConfig = ROBUST) -> Score:
    return score(made, of, verdict or rated(4), config)


def test_robust_total_is_w_rho_answer_plus_the_process():
    of = task(OSLO)
    got = scored(episode(call(outcome="fuzzy", fidelity=0.5), of=of), of)
    assert got.status is ScoreStatus.SCORED
    assert (got.trust, got.r_answer, got.r_process) == (0.5, 0.8, pytest.approx(1.0))
    assert got.alpha == pytest.approx(0.6 * 0.5)
    assert got.total == pytest.approx(0.6 * 0.5 * 0.8 + 0.4 * 1.0)
    assert got.weights == pytest.approx(ROBUST_WEIGHTS)


@pytest.mark.parametrize(
    ("tiers", "alpha"),
    [
        (["exact"], 0.6),
        (["exact", "fuzzy"], 0.3),
        (["best_effort", "fuzzy"], 0.1),
        (["miss", "exact"], 0.1),
        ([], 0.6),
        (["malformed"], 0.6),
    ],
)
def test_paper_weighs_the_answer_by_the_worst_tier(tiers: list[str], alpha: float):
    of = task(OSLO)
    got = scored(episode(*(call(outcome=tier) for tier in tiers), of=of), of, config=PAPER)
    assert got.alpha == alpha
    assert got.trust == got.blame == 1.0
    assert got.total == pytest.approx(alpha * 0.8 + (1 - alpha) * got.r_process)
    assert got.weights == pytest.approx(PAPER_WEIGHTS)


def test_paper_terms():
    of = task()
    made = episode(call(), call("population"), call(), call("nothing"), of=of, thinking=None, answer="21")
    got = scored(made, of, config=PAPER)
    assert got.terms == {"valid_names": 0.75, "answer_present": 1.0, "thinking": 0.0, "diversity": 0.5, "valid_arguments": 0.75}
    assert got.r_process == pytest.approx(0.4 * 0.75 + 0.25 + 0.1 * 0.5 + 0.1 * 0.75)


def test_paper_rewards_tier_seeking_and_robust_does_not():
    """The paper's rule pays for missing the cache: with R_answer .5 and R_process .9 it gives .66, .78, .86."""
    of = task(OSLO)
    totals = {}
    for tier in TIERS:
        made = episode(call(outcome=tier, fidelity=0.9 if tier != "exact" else None), of=of)
        totals[tier] = [score(made, of, rated(2, 3), config).total or 0.0 for config in (PAPER, ROBUST)]
    paper, robust = ([totals[tier][i] for tier in TIERS] for i in (0, 1))
    assert paper[0] < paper[1] < paper[2] == paper[3]
    assert robust[0] > robust[1] >= robust[2] > robust[3]


def test_the_papers_own_figures_of_tier_seeking():
    assert [round(a * 0.5 + (1 - a) * 0.9, 9) for a in (PAPER.alpha[tier] for tier in TIERS[:3])] == [0.66, 0.78, 0.86]


# Trust and blame


@pytest.mark.parametrize(
    ("made", "rho"),
    [
        ([], 1.0),
        ([call()], 1.0),
        ([call(fidelity=0.97)], 0.97),
        ([call(agreement=None)], 1.0),
        ([call(agreement=Agreement(scenario=True, state=False, schema_=True))], 0.0),
        ([call(), call(outcome="fuzzy")], 0.0),
        ([call(outcome="fuzzy", fidelity=0.9), call(outcome="best_effort", fidelity=0.6)], 0.6),
        ([call(), call(outcome="miss", fidelity=0.9)], 0.0),
        ([call(outcome="malformed"), call("nope", outcome="unknown_tool"), call()], 1.0),
    ],
)
def test_trust_is_the_least_fidelity(made: list[EpisodeCall], rho: float):
    of = task(OSLO)
    assert scored(episode(*made, of=of), of).trust == rho


@pytest.mark.parametrize(
    ("made", "beta", "reason"),
    [
        ([], 1.0, "no_clean_reference_call"),
        ([call(outcome="miss")], 0.0, "call 0 (miss)"),
        ([call(), call(city="Bergen", outcome="fuzzy", fidelity=0.4)], 0.4, "call 1 (fuzzy)"),
        # An off-reference miss before a reference call makes that call unclean: no blame is taken away.
        ([call("population", outcome="miss"), call(outcome="miss")], 1.0, "no_clean_reference_call"),
        ([call("rename", mutating=True), call(outcome="miss")], 1.0, "no_clean_reference_call"),
        # A mutating call that failed changed nothing; an exact read neither.
        ([call("rename", mutating=True, is_error=True), call(outcome="miss")], 0.0, "call 1 (miss)"),
        ([call("population"), call(outcome="miss")], 0.0, "call 1 (miss)"),
        # An off-reference miss after the reference call leaves it clean.
        ([call(fidelity=0.3), call("population", outcome="miss")], 0.3, "call 0 (exact)"),
        # Of two calls that could be the reference call the earlier one is.
        ([call(fidelity=0.3), call(outcome="miss")], 0.3, "call 0 (exact)"),
        ([call("nope", outcome="unknown_tool"), call(outcome="malformed"), call(fidelity=0.2)], 0.2, "call 2 (exact)"),
        ([call()], 1.0, "clean_reference_calls_trusted"),
    ],
)
def test_blame_is_the_least_fidelity_of_the_clean_reference_calls(made: list[EpisodeCall], beta: float, reason: str):
    of = task(OSLO, BERGEN)
    got = scored(episode(*made, of=of), of)
    assert (got.blame, got.blame_reason) == (beta, reason)


def test_without_reference_calls_the_blame_is_whole():
    of = task()
    got = scored(episode(call(outcome="miss"), of=of), of)
    assert (got.trust, got.blame, got.blame_reason) == (0.0, 1.0, "no_reference_calls")


# The process terms of robust


def process(of: Task, *made: EpisodeCall, **options: object) -> dict[str, float]:
    return scored(episode(*made, of=of, **options), of).terms  # type: ignore[arg-type]


def test_match_counts_reference_calls_in_order():
    of = task(OSLO, BERGEN)
    assert process(of, call(), call(city="Bergen"))["match"] == 1.0
    assert process(of, call(city="Bergen"), call())["match"] == 0.5
    assert process(of, call(arguments={"city": " Oslo ", "unit": "C"}))["match"] == 0.5  # canonical: trimmed, the default filled in
    assert process(of, call(city="oslo"))["match"] == 0.0


def test_metrics_share_the_match():
    of = task(OSLO, BERGEN)
    made = episode(call(), call("population"), call(city="Bergen"), call(outcome="malformed"), of=of)
    assert process_accuracy(made, of) == scored(made, of).terms["match"] == 1.0
    assert call_f1(made, of) == pytest.approx(2 * 2 / (4 + 2))
    assert process_accuracy(made, task()) is None
    assert call_f1(made, task()) is None


def test_economy_counts_repeats_and_calls_beyond_the_reference():
    of = task(OSLO, BERGEN)
    assert process(of)["economy"] == 1.0
    assert process(of, call(), call("population"))["economy"] == 1.0
    assert process(of, call(), call())["economy"] == pytest.approx(2 / 3)
    assert process(of, call(), call("population"), call(city="Bergen"))["economy"] == pytest.approx(2 / 3)
    twice = task(OSLO, wanted("rename", "Oslo"), OSLO)
    assert process(twice, call(), call("rename", mutating=True), call())["economy"] == 1.0
    free = task()
    assert process(free, call(), call("population"))["economy"] == 1.0
    assert process(free, call(), call())["economy"] == 0.5


def test_valid_calls_counts_every_fault_of_the_policy():
    of = task(OSLO, BERGEN)
    assert process(of, call(), call(city="Bergen"))["valid_calls"] == 1.0
    assert process(of, call(outcome="malformed"))["valid_calls"] == pytest.approx(2 / 3)
    assert process(of, call("nope", outcome="unknown_tool"), call(arguments={"town": "Oslo"}))["valid_calls"] == 0.5


def test_thinking_must_be_the_policys_own():
    of = task()
    assert process(of, call())["thinking"] == 1.0
    assert process(of, call(), thinking=None)["thinking"] == 0.0
    assert process(of, call(), thinking="\n\n")["thinking"] == 0.0  # a pre-closed block
    assert process(of, call(), thinking="</think>")["thinking"] == 0.0
    assert process(of, call(), answer="21 </think> degrees")["thinking"] == 0.0
    made = episode(call(), of=of, thinking=None)
    shown = [Message(role=Role.ASSISTANT, content="", reasoning_content="An example in the prompt."), *made.messages]
    of_examples = of.model_copy(update={"messages": [shown[0], *of.messages]})
    in_prompt = made.model_copy(update={"messages": shown}).sealed()
    assert score(in_prompt, of_examples, rated(4), ROBUST).terms["thinking"] == 0.0


def test_terms_that_need_a_reference_are_left_out_and_the_rest_renormalised():
    of = task()
    got = scored(episode(call(), of=of), of)
    assert "match" not in got.terms
    assert sum(got.weights.values()) == pytest.approx(1.0)
    assert got.weights["valid_calls"] == pytest.approx(0.2 / 0.6)
    assert got.r_process == pytest.approx(1.0)


def test_configured_weights_and_their_refusals():
    of = task(OSLO)
    own = RewardConfig(process_weights={"match": 3, "economy": 1})
    got = scored(episode(of=of), of, config=own)
    assert got.weights == {"match": 0.75, "economy": 0.25}
    assert got.r_process == 0.25
    for weights in ({"charm": 1.0}, {"match": -1.0, "economy": 2.0}, {"match": 0.0}, {"diversity": 1.0}):
        with pytest.raises(InputError):
            checked(RewardConfig(process_weights=weights))
    for alpha in ({"exact": 0.5}, {**ROBUST.alpha, "exact": 1.5}, {**ROBUST.alpha, "near": 0.1}):
        with pytest.raises(InputError):
            checked(RewardConfig(preset="paper", alpha=alpha))


# The answer


@pytest.mark.parametrize(
    ("answer", "clamp"),
    [
        (None, "no_answer"),
        ("  ", "no_answer"),
        ("</think> It is 21 degrees.", "thinking_leak"),
        ("<THINK>it is 21", "thinking_leak"),
        ("The user wants to know the temperature. It is 21.", "meta_reasoning"),
        ("I should answer with the temperature: 21 degrees.", "meta_reasoning"),
        ("I’ll now formulate the reply. 21 degrees.", "meta_reasoning"),
        ("Let me respond: 21 degrees.", "meta_reasoning"),
        ("The final answer should mention 21 degrees.", "meta_reasoning"),
        ("How should I phrase it? 21 degrees.", "meta_reasoning"),
    ],
)
def test_clamped_answers_are_worth_nothing_whatever_the_judge_says(answer: str | None, clamp: str):
    of = task()
    made = episode(call(), of=of, answer=answer)
    got = score(made, of, rated(5), ROBUST)
    assert got.status is ScoreStatus.SCORED
    assert got.r_answer == 0.0
    assert clamp in got.clamps
    assert not needs_verdict(made, of)
    assert score(made, of, None, ROBUST).r_answer == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "It is 21 degrees in Oslo.",
        "Let me know if you need the forecast as well.",
        "I need your order number before I can refund it.",
        "I will send the refund to your card. The reply from the shop is: accepted.",
        "The answer is 42.",
        "Your response was saved; the users of room 5 think it is too warm.",
    ],
)
def test_plain_answers_are_not_clamped(answer: str):
    of = task()
    made = episode(of=of, answer=answer)
    assert needs_verdict(made, of)
    assert score(made, of, rated(5), ROBUST).clamps == []


def test_an_episode_that_stopped_early_has_no_answer():
    of = task(OSLO)
    got = scored(episode(call(), of=of, stop=StopReason.MAX_TURNS), of, rated(5))
    assert (got.r_answer, got.clamps, got.reasons) == (0.0, ["no_answer"], ["stopped_by:max_turns"])
    assert got.terms["answer_present"] == 0.0


def test_a_judge_without_a_verdict_abstains_and_is_never_a_zero():
    of = task(OSLO)
    for verdict in (None, JudgeVotes(name="facts", votes=[])):
        got = score(episode(call(), of=of), of, verdict, ROBUST)
        assert got.status is ScoreStatus.ABSTAINED
        assert got.total is None
        assert got.r_answer is None
        assert got.reasons == ["judge_abstained"]


def test_votes_are_averaged_and_their_agreement_is_known():
    of = task(OSLO)
    assert scored(episode(call(), of=of), of, rated(5, 4, 3)).r_answer == pytest.approx(0.8)
    assert agreement(rated(5, 4, 3)) == pytest.approx(0.6)
    assert agreement(rated(2, 2)) == 1.0
    assert agreement(rated(2)) is None
    with pytest.raises(InputError):
        score(episode(of=of), of, rated(6), ROBUST)


@pytest.mark.parametrize("config", [ROBUST, PAPER])
@pytest.mark.parametrize("of", [task(OSLO, answer=None), task(reference=False), task(answer=" ", facts=[])])
def test_without_a_reference_answer_there_is_no_answer_term(of: Task, config: RewardConfig):
    made = episode(call(outcome="miss"), of=of)
    got = score(made, of, None, config)
    assert got.status is ScoreStatus.SCORED
    assert (got.r_answer, got.alpha) == (None, 0.0)
    assert got.total == got.r_process
    assert "no_reference_answer" in got.reasons
    assert not needs_verdict(made, of)


@pytest.mark.parametrize(
    "options",
    [
        {"status": EpisodeStatus.FAILED},
        {"stop": StopReason.CANCELLED},
        {"stop": StopReason.INFRASTRUCTURE},
        {"stop": StopReason.TIMEOUT, "error": {"type": "urn:cacherl:problem:engine-away"}},
    ],
)
def test_what_the_infrastructure_did_is_never_a_reward(options: dict[str, object]):
    of = task(OSLO)
    got = scored(episode(call(), of=of, **options), of, rated(5))  # type: ignore[arg-type]
    assert got.status is ScoreStatus.UNSCORABLE
    assert (got.total, got.r_answer, got.r_process) == (None, None, None)
    assert got.reasons


def test_an_unsound_episode_and_one_without_its_task_are_unscorable():
    of = task(OSLO)
    made = episode(call(), of=of)
    unsound = {
        "broken:hash": made.model_copy(update={"seed": 2}),
        "broken:spans-ordered": made.model_copy(update={"prompt_length": 10}).sealed(),
        "task_missing": made,
    }
    for why, each in unsound.items():
        got = score(each, None if why == "task_missing" else of, rated(5), ROBUST)
        assert (got.status, got.total, got.reasons) == (ScoreStatus.UNSCORABLE, None, [why])
    assert score(made.model_copy(update={"hash": ""}), of, rated(5), ROBUST).reasons == ["broken:hash"]


def test_the_deterministic_verdict_offline():
    of = task(OSLO, facts=["21", "Oslo"])
    assert facts_verdict(episode(call(), of=of, answer="21 in Oslo"), of) == rated(5)
    assert facts_verdict(episode(call(), of=of, answer="no"), of) == rated(0)
    assert facts_verdict(episode(call(), of=of, answer=" "), of) is None
    assert facts_verdict(episode(call()), None) is None
    unknown = task(OSLO)
    assert facts_verdict(episode(call(), of=unknown), unknown) == rated()


def test_an_aborted_turn_is_not_scored_and_the_policys_own_timeout_is():
    of = task(OSLO)
    made = episode(call(), of=of)
    aborted = made.model_copy(update={"turns": [made.turns[0].model_copy(update={"finish_reason": FinishReason.ABORT}), *made.turns[1:]]})
    assert scored(aborted, of).reasons == ["aborted_turn"]
    assert scored(episode(call(), of=of, stop=StopReason.TIMEOUT), of).status is ScoreStatus.SCORED


# Properties

CALLS = st.lists(
    st.builds(
        call,
        name=st.sampled_from(["weather", "population", "rename", "nope"]),
        city=st.sampled_from(["Oslo", "Bergen", "Rome"]),
        outcome=st.sampled_from([*TIERS, "malformed", "unknown_tool"]),
        fidelity=st.none() | st.floats(0, 1),
        mutating=st.booleans(),
        is_error=st.booleans(),
    ),
    max_size=6,
)
REFERENCE = st.lists(st.sampled_from([OSLO, BERGEN, wanted("rename", "Oslo"), wanted("population", "Oslo")]), max_size=4)


@given(made=CALLS, reference=REFERENCE, worse=st.sampled_from(TIERS), place=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_no_process_term_rises_with_a_worse_tier(made: list[EpisodeCall], reference: list[ToolCall], worse: str, place: int):
    """Method §5, property 4, for both presets."""
    tiered = [index for index, each in enumerate(made) if each.outcome.tier is not None]
    if not tiered:
        return
    index = tiered[place % len(tiered)]
    before = made[index].outcome.tier
    assert before is not None
    if TIERS.index(worse) < before.rank:
        return
    changed = [*made]
    changed[index] = made[index].model_copy(update={"outcome": CallOutcome(worse), "fidelity": 0.0})
    of = task(*reference)
    for config in (ROBUST, PAPER):
        better, poorer = (scored(episode(*each, of=of), of, config=config).terms for each in (made, changed))
        assert all(poorer[name] <= better[name] for name in better)


@given(made=CALLS, reference=REFERENCE, extra=CALLS.filter(bool), place=st.integers(0, 6))
@settings(max_examples=150, deadline=None)
def test_a_useless_call_never_raises_the_process_term_of_robust(
    made: list[EpisodeCall], reference: list[ToolCall], extra: list[EpisodeCall], place: int
):
    useless = extra[0]
    if useless.call is not None and any(useless.call.model_dump() == each.model_dump() for each in reference):
        return
    of = task(*reference)
    at = min(place, len(made))
    before, after = (scored(episode(*each, of=of), of) for each in (made, [*made[:at], useless, *made[at:]]))
    assert all(after.terms[name] <= before.terms[name] for name in before.terms)
    assert (after.r_process or 0.0) <= (before.r_process or 0.0)
    assert after.trust <= before.trust
    assert after.blame >= before.blame


@given(made=CALLS, reference=REFERENCE, fidelity=st.floats(0, 1), place=st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_missing_the_cache_can_only_lower_a_robust_total(made: list[EpisodeCall], reference: list[ToolCall], fidelity: float, place: int):
    if not made or made[place % len(made)].outcome.tier is None:
        return
    of, index = task(*reference), place % len(made)
    hit = made[index].model_copy(update={"outcome": CallOutcome.EXACT, "fidelity": fidelity})
    miss = made[index].model_copy(update={"outcome": CallOutcome.MISS})
    totals = [scored(episode(*made[:index], each, *made[index + 1 :], of=of), of).total for each in (miss, hit)]
    assert totals[0] is not None
    assert totals[1] is not None
    assert totals[0] <= totals[1]


@given(made=CALLS, reference=REFERENCE, votes=st.lists(st.integers(0, 5), max_size=3))
@settings(max_examples=100, deadline=None)
def test_scores_lie_between_0_and_1_and_repeat(made: list[EpisodeCall], reference: list[ToolCall], votes: list[int]):
    of = task(*reference)
    for config in (ROBUST, PAPER):
        first, again = (score(episode(*made, of=of), of, JudgeVotes(name="facts", votes=votes), config) for _ in range(2))
        assert first == again
        values = [first.trust, first.blame, *first.terms.values(), first.r_process, first.alpha, first.total]
        assert all(0 <= value <= 1 for value in values if value is not None)
    assert {tool.name for tool in TOOLS} == {"weather", "population", "rename"}
