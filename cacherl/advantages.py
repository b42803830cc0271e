"""From the scores of a group to advantages (method §5). Pure; five estimators, one arithmetic.

`attributed`: A = w·[ρ·(d)₊ − β·(−d)₊] + (1 − w)·(R_process − mean over the others), d = R_answer − b, where b is the ρ-weighted mean of
R_answer over the *other* scored episodes. Nothing is divided by the group's spread. `split` puts β = ρ, `asymmetric` β = 1. `centred` is
the total minus the group's mean, `std` that divided by the group's standard deviation (of the population, as the witness of
arXiv 2609.26866 has it).

Edges, all counted in the diagnostics: one scored episode → 0; less than `LEAST_TRUST` of ρ among the others → no answer term; an
unscored episode has a null advantage and is left out of every mean. It refuses scores that another configuration gave.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cacherl.api.reward import AdvantageAnswer, Group, GroupAdvantages
from cacherl.errors import ConflictError
from cacherl.reward.process import weigh, weights_of
from cacherl.reward.scoring import agreement, answer_weight, checked, process_weight
from cacherl.score import Estimator, RewardConfig, Score, ScoreStatus
from cacherl.tier import Preset, Tier

LEAST_TRUST = 0.5
"""Sum of ρ that the other episodes must hold for a baseline of the answer."""
SPREAD_FLOOR = 1e-9
"""A group whose standard deviation is smaller has no spread: `std` gives 0."""
ZERO = 1e-12
"""An advantage below this is 0 when degenerate groups are counted."""
AGREES = 1e-9
"""How near a score's arithmetic must be to that of the configuration it is said to come from."""

ALARM_SHARE = 0.5
"""Above this share of the scored episodes (low trust) or of the groups (zero advantage, no answer term) an alarm is raised."""
ALARM_CORRELATION = -0.3
"""Below this correlation of ρ with the advantage, missing the cache is being rewarded."""
ALARM_BLAME = 0.5
"""Below this mean β, more than half of the blame is taken away: the recordings lack what right episodes call."""
ALARM_EPISODES = 32
"""Correlations and means over fewer scored episodes raise no alarm."""

Diagnostics = dict[str, float | int | str | None]


@dataclass(frozen=True, slots=True)
class Terms:
    """The numbers of one group's scored episodes, vectors over G. `weight` is that of the answer, 0 without an answer term."""

    answers_G: Sequence[float]
    process_G: Sequence[float]
    totals_G: Sequence[float]
    trust_G: Sequence[float]
    blame_G: Sequence[float]
    weight: float


def default_estimator(preset: Preset) -> Estimator:
    """`attributed` for `robust`, `std` for `paper`."""
    return Estimator.STD if preset == "paper" else Estimator.ATTRIBUTED


def estimate(terms: Terms, estimator: Estimator) -> tuple[list[float], int]:
    """(advantages_G, how many of them have no answer term for want of trust among the others). One episode gives 0."""
    size = len(terms.totals_G)
    if size < 2:
        return [0.0] * size, 0
    if estimator in (Estimator.CENTRED, Estimator.STD):
        return _centred(terms.totals_G, scaled=estimator is Estimator.STD), 0
    blame_G = {Estimator.SPLIT: terms.trust_G, Estimator.ASYMMETRIC: [1.0] * size}.get(estimator, terms.blame_G)
    return _two_terms(terms, blame_G)


def _centred(totals_G: Sequence[float], *, scaled: bool) -> list[float]:
    mean = math.fsum(totals_G) / len(totals_G)
    centred_G = [total - mean for total in totals_G]
    if not scaled:
        return centred_G
    spread = math.sqrt(math.fsum(value * value for value in centred_G) / len(centred_G))
    return [value / spread if spread > SPREAD_FLOOR else 0.0 for value in centred_G]


def _two_terms(terms: Terms, blame_G: Sequence[float]) -> tuple[list[float], int]:
    others = len(terms.totals_G) - 1
    all_process = math.fsum(terms.process_G)
    all_trust = math.fsum(terms.trust_G)
    all_trusted = math.fsum(rho * answer for rho, answer in zip(terms.trust_G, terms.answers_G, strict=True))
    advantages_G, untrusted = [], 0
    for answer, process, rho, beta in zip(terms.answers_G, terms.process_G, terms.trust_G, blame_G, strict=True):
        advantage = (1 - terms.weight) * (process - (all_process - process) / others)
        if all_trust - rho < LEAST_TRUST:
            untrusted += terms.weight > 0
        else:
            d = answer - (all_trusted - rho * answer) / (all_trust - rho)
            advantage += terms.weight * (rho if d > 0 else beta) * d
        advantages_G.append(advantage)
    return advantages_G, untrusted


def group_terms(scores_G: Sequence[Score], config: RewardConfig) -> Terms:
    """The numbers of scored episodes. Raises ConflictError where `config` does not give a score, or where only some have an answer term."""
    for score in scores_G:
        _refuse_foreign(score, config)
    with_answer = [score.r_answer is not None for score in scores_G]
    if any(with_answer) and not all(with_answer):
        raise ConflictError("Some scores of one group have an answer term and some have none.", slug="mixed-scores")
    return Terms(
        answers_G=[score.r_answer or 0.0 for score in scores_G],
        process_G=[score.r_process or 0.0 for score in scores_G],
        totals_G=[score.total or 0.0 for score in scores_G],
        trust_G=[score.trust for score in scores_G],
        blame_G=[score.blame for score in scores_G],
        weight=config.answer_weight if any(with_answer) else 0.0,
    )


def _refuse_foreign(score: Score, config: RewardConfig) -> None:
    """A score carries no hash of its configuration; its own arithmetic shows whether this one gave it."""
    weights, r_process = weigh(score.terms, weights_of(config.preset, config.process_weights))
    has_answer = score.r_answer is not None
    alpha = answer_weight(config, score.trust, score.worst_tier, has_answer)
    total = alpha * (score.r_answer or 0.0) + process_weight(config, alpha, has_answer) * r_process
    judged = score.judge is None or (score.judge.name == config.judge and len(score.judge.votes) <= config.judge_votes)
    same = (
        judged
        and weights.keys() == score.weights.keys()
        and all(abs(weights[name] - score.weights[name]) <= AGREES for name in weights)
        and all(
            given is not None and abs(given - wanted) <= AGREES
            for given, wanted in ((score.alpha, alpha), (score.r_process, r_process), (score.total, total))
        )
    )
    if not same:
        raise ConflictError(f"The score of {score.episode_id} was given under another configuration.", slug="mixed-configurations")


def group_advantages(group: Group, config: RewardConfig, estimator: Estimator) -> GroupAdvantages:
    """advantages_G of one group, null where an episode was not scored, with what to look at."""
    scored = [score for score in group.scores if score.status is ScoreStatus.SCORED]
    terms = group_terms(scored, config)
    values, untrusted = estimate(terms, estimator)
    following = iter(values)
    advantages_G = [next(following) if score.status is ScoreStatus.SCORED else None for score in group.scores]
    diagnostics = _diagnostics(group.scores, scored, values, config)
    diagnostics["no_answer_term"] = untrusted
    diagnostics["single"] = int(len(scored) == 1)
    diagnostics["zero_advantage"] = int(all(abs(value) <= ZERO for value in values))
    return GroupAdvantages(task_id=group.task_id, advantages=advantages_G, diagnostics=diagnostics)


def advantages(groups: Sequence[Group], config: RewardConfig, estimator: Estimator | None = None) -> AdvantageAnswer:
    """Advantages of all groups, the batch's diagnostics and alarms. Raises ConflictError for scores of another configuration."""
    chosen = estimator or default_estimator(checked(config).preset)
    answers = [group_advantages(group, config, chosen) for group in groups]
    every = [score for group in groups for score in group.scores]
    scored = [score for score in every if score.status is ScoreStatus.SCORED]
    values = [value for answer in answers for value in answer.advantages if value is not None]
    diagnostics = _diagnostics(every, scored, values, config)
    diagnostics["groups"] = len(groups)
    for name in ("no_answer_term", "single", "zero_advantage"):
        diagnostics[name] = sum(int(answer.diagnostics[name] or 0) for answer in answers)
    return AdvantageAnswer(estimator=chosen, groups=answers, diagnostics=diagnostics, alarms=_alarms(diagnostics))


def _diagnostics(every: Sequence[Score], scored: Sequence[Score], values: Sequence[float], config: RewardConfig) -> Diagnostics:
    tiers = [score.worst_tier for score in scored]
    agreements = [found for score in scored if score.judge is not None and (found := agreement(score.judge)) is not None]
    shares: Diagnostics = {f"share_{tier}": _mean([found is tier for found in tiers]) for tier in Tier}
    return {
        "episodes": len(every),
        "scored": len(scored),
        "abstained": sum(score.status is ScoreStatus.ABSTAINED for score in every),
        "unscorable": sum(score.status is ScoreStatus.UNSCORABLE for score in every),
        **shares,
        "share_no_call": _mean([found is None for found in tiers]),
        "share_low_trust": _mean([score.trust < config.low_trust for score in scored]),
        "mean_trust": _mean([score.trust for score in scored]),
        "mean_blame": _mean([score.blame for score in scored]),
        "trust_advantage_correlation": correlation([score.trust for score in scored], values),
        "judge_agreement": _mean(agreements),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's r; None where one of the two does not vary."""
    if len(xs) < 2:
        return None
    x_mean, y_mean = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    x_spread = math.fsum((x - x_mean) ** 2 for x in xs)
    y_spread = math.fsum((y - y_mean) ** 2 for y in ys)
    if min(x_spread, y_spread) <= ZERO * ZERO:
        return None
    joint = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return max(-1.0, min(1.0, joint / math.sqrt(x_spread * y_spread)))


def _alarms(found: Diagnostics) -> list[str]:
    """The names of what is wrong with a batch."""
    groups, scored = int(found["groups"] or 0), int(found["scored"] or 0)
    alarms = []
    if _number(found["share_low_trust"], 0.0) > ALARM_SHARE:
        alarms.append("low_trust")
    if int(found["zero_advantage"] or 0) > ALARM_SHARE * groups:
        alarms.append("zero_advantage_groups")
    if int(found["no_answer_term"] or 0) > ALARM_SHARE * scored:
        alarms.append("no_answer_term")
    if scored >= ALARM_EPISODES and _number(found["trust_advantage_correlation"], 0.0) < ALARM_CORRELATION:
        alarms.append("missing_is_rewarded")
    if scored >= ALARM_EPISODES and _number(found["mean_blame"], 1.0) < ALARM_BLAME:
        alarms.append("low_blame")
    return alarms


def _number(value: float | int | str | None, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise
