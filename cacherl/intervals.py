"""Confidence intervals: bootstrap over tasks, paired differences, and rates (method §7). Plain Python, seeded, no global state.

The unit is the *task*: its K episodes share a prompt and a scenario, so they are averaged first and never resampled alone. Rates of
independent trials get Wilson's interval (near its level on average) or Clopper and Pearson's (never below its level).
"""

import math
from collections.abc import Sequence
from random import Random
from statistics import NormalDist

from cacherl.errors import InputError
from cacherl.wire import Wire

__all__ = ["Ci", "beta_interval", "bootstrap_mean", "bootstrap_paired", "clopper_pearson", "wilson"]

RESAMPLES = 2000
LEVEL = 0.95


class Ci(Wire):
    """A mean with its 95 % bootstrap interval over tasks; `n` tasks, `seeds` the most episodes of one task."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int


def bootstrap_mean(values_T_K: Sequence[Sequence[float]], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Ci:
    """Mean over T tasks of the means of their K episodes, with its percentile bootstrap interval over tasks (Efron 1979).

    The same values and seed give the same interval. Raises InputError without a task, or for a task without an episode.
    """
    if not values_T_K or not all(values_T_K):
        raise InputError("An interval needs at least one task, and at least one episode of each.")
    means_T = [_mean(values_K) for values_K in values_T_K]
    low, high = _percentiles(means_T, Random(seed), resamples, level)
    mean = _mean(means_T)
    return Ci(mean=mean, low=min(low, mean), high=max(high, mean), n=len(means_T), seeds=max(map(len, values_T_K)))


def bootstrap_paired(
    a_T_K: Sequence[Sequence[float]],
    b_T_K: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Ci:
    """The interval of a − b, entry [t][k] of both being the same task and seed. Raises InputError unless their shapes agree."""
    if [len(values_K) for values_K in a_T_K] != [len(values_K) for values_K in b_T_K]:
        raise InputError("A paired difference needs the same tasks with the same seeds on both sides.")
    differences_T_K = [[x - y for x, y in zip(a_K, b_K, strict=True)] for a_K, b_K in zip(a_T_K, b_T_K, strict=True)]
    return bootstrap_mean(differences_T_K, seed=seed, resamples=resamples, level=level)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _percentiles(values_T: list[float], rng: Random, resamples: int, level: float) -> tuple[float, float]:
    size = len(values_T)
    if min(values_T) == max(values_T):
        return values_T[0], values_T[0]
    means = sorted(sum(rng.choices(values_T, k=size)) / size for _ in range(resamples))
    tail = (1 - level) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between order statistics (Hyndman and Fan's type 7)."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927); (0, 1) without trials. Raises InputError for impossible counts."""
    _refuse_counts(successes, trials)
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, scale = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / scale
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == trials else min(1.0, centre + half))


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a rate (Clopper and Pearson 1934); (0, 1) without trials. Raises InputError for impossible counts."""
    _refuse_counts(successes, trials)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else _beta_quantile(1 - tail, successes + 1, trials - successes)
    return low, high


def beta_interval(share: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of so many trials, which need be no whole number: an effective sample size."""
    tail, successes = (1 - level) / 2, share * trials
    low = 0.0 if share == 0 else _beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if share == 1 else _beta_quantile(1 - tail, successes + 1, trials - successes)
    return low, high


def _refuse_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise InputError(f"{successes} successes in {trials} trials cannot be.")


def _beta_quantile(share: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = share, by bisection to the last bit."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _beta_share(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return middle


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) (DLMF 8.17.22, on the side where the fraction converges fast)."""
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _beta_share(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    return front * _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of DLMF 8.17.22, by Lentz's method."""
    tiny = 1e-300
    numerator, inverse = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1), tiny)
    value = inverse
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            inverse = 1.0 / _away_from_zero(1.0 + step * inverse, tiny)
            numerator = _away_from_zero(1.0 + step / numerator, tiny)
            value *= numerator * inverse
        if abs(numerator * inverse - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
