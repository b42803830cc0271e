"""Two toys in which the rule for blame decides what a policy learns (method §5). The estimator is `cacherl.advantages` itself.

A policy is a logit per visible state; an episode is one action. Groups of 8, plain policy gradient, learning rate 0.5; the process term is
constant (0.8). The paper's rule pays its total with α by tier and is centred.
"""

import math
from dataclasses import dataclass
from random import Random

from cacherl.advantages import Terms, estimate
from cacherl.reward import answer_weight, process_weight
from cacherl.score import Estimator, RewardConfig
from cacherl.tier import Tier

GROUP, RATE, STEPS = 8, 0.5, 3000
PROCESS = 0.8
ROBUST, PAPER = RewardConfig(), RewardConfig(preset="paper")
RULES = {
    "paper": Estimator.CENTRED,
    "split": Estimator.SPLIT,
    "asymmetric": Estimator.ASYMMETRIC,
    "attributed": Estimator.ATTRIBUTED,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the reward sees of an episode."""

    answer: float
    trust: float
    blame: float


def _total(seen: Seen, config: RewardConfig) -> float:
    alpha = answer_weight(config, seen.trust, Tier.EXACT if seen.trust > 0 else Tier.MISS, True)
    return alpha * seen.answer + process_weight(config, alpha, True) * PROCESS


def _advantages(group: list[Seen], rule: str) -> list[float]:
    config = PAPER if rule == "paper" else ROBUST
    terms = Terms(
        answers_G=[seen.answer for seen in group],
        process_G=[PROCESS] * len(group),
        totals_G=[_total(seen, config) for seen in group],
        trust_G=[seen.trust for seen in group],
        blame_G=[seen.blame for seen in group],
        weight=config.answer_weight,
    )
    return estimate(terms, RULES[rule])[0]


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def quit_toy(rule: str, seed: int, steps: int = STEPS) -> tuple[float, float]:
    """(misses in the doomed state, true success).

    Half of the states are good (an answer is right with .8), half doomed (.2), visibly. Pressing "miss" is an off-reference call that no
    recording answers: ρ 0, β 1, a wrong answer. Start: 12 % misses.
    """
    rng, logits = Random(seed), {True: -2.0, False: -2.0}
    for _ in range(steps):
        group, chosen = [], []
        for _ in range(GROUP):
            good = rng.random() < 0.5
            probability = _sigmoid(logits[good])
            missed = rng.random() < probability
            right = not missed and rng.random() < (0.8 if good else 0.2)
            group.append(Seen(float(right), 0.0 if missed else 1.0, 1.0))
            chosen.append((good, missed - probability))
        for advantage, (good, gradient) in zip(_advantages(group, rule), chosen, strict=True):
            logits[good] += RATE * advantage * gradient / GROUP
    good, doomed = _sigmoid(logits[True]), _sigmoid(logits[False])
    return doomed, 0.5 * 0.8 * (1 - good) + 0.5 * 0.2 * (1 - doomed)


def coverage_toy(rule: str, seed: int, steps: int = STEPS, lacking: float = 0.7, beside: float = 1.0) -> tuple[float, float]:
    """(how often the right tool is called, live success).

    The reference call is right with .9 live, but the recordings lack it in 70 % of the tasks: there ρ = β = 0 and a wrong answer. Guessing
    without a tool is right with .35. `beside`: the fidelity of an off-reference exact hit that goes with every recorded call.
    """
    rng, logit = Random(seed), 0.0
    for _ in range(steps):
        lacks = rng.random() < lacking
        probability = _sigmoid(logit)
        group, gradients = [], []
        for _ in range(GROUP):
            called = rng.random() < probability
            if called and lacks:
                group.append(Seen(0.0, 0.0, 0.0))
            else:
                group.append(Seen(float(rng.random() < (0.9 if called else 0.35)), beside if called else 1.0, 1.0))
            gradients.append(called - probability)
        step = sum(advantage * gradient for advantage, gradient in zip(_advantages(group, rule), gradients, strict=True))
        logit += RATE * step / GROUP
    calls = _sigmoid(logit)
    return calls, 0.9 * calls + 0.35 * (1 - calls)
