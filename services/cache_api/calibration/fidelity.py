"""Fidelity: the probability that a hit is right, by tool and similarity. For use, not a guarantee: only `learn_then_test` gives a bound.

A tool's hits are drawn to its pool's where there are few (a Beta prior of ten hits), and made monotone in similarity by isotonic regression
(pool adjacent violators): a nearer match is never believed less.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.isotonic import isotonic_regression

from cacherl.api.cache_calibration import FidelityStep

PRIOR_HITS = 10.0
"""How many hits the pool's share of right ones counts for."""
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Hit:
    """What would have been served, how near it was and whether it was right."""

    similarity: float
    right: bool


def pooled(hits: Iterable[bool]) -> float:
    """Share of right hits of a pool, with one right and one wrong added."""
    found = list(hits)
    return (sum(found) + 1) / (len(found) + 2)


def shrunk(hits: Sequence[bool], pool: float) -> float:
    """Share of right hits of one tool, drawn to its pool where there are few."""
    return (sum(hits) + PRIOR_HITS * pool) / (len(hits) + PRIOR_HITS)


def steps(hits: Sequence[Hit], pool: Sequence[Hit], edges: Sequence[float]) -> list[FidelityStep]:
    """Fidelity by similarity, never falling, from the tool's hits and its pool's. `edges`: where bins begin, in rising order.

    A hit below the first edge counts in the first bin. Neighbouring steps of one value are one.
    """
    prior_B = _monotone([shrunk(bin_, pooled(hit.right for hit in pool)) for bin_ in _bins(pool, edges)], _sizes(pool, edges))
    mine = [shrunk(bin_, prior) for bin_, prior in zip(_bins(hits, edges), prior_B, strict=True)]
    found: list[FidelityStep] = []
    for edge, value in zip(edges, _monotone(mine, _sizes(hits, edges)), strict=True):
        rounded = round(value, DIGITS)
        if not found or rounded > found[-1].fidelity:
            found.append(FidelityStep(similarity=edge, fidelity=rounded))
    return found


def _bins(hits: Iterable[Hit], edges: Sequence[float]) -> list[list[bool]]:
    bins: list[list[bool]] = [[] for _ in edges]
    for hit in hits:
        bins[max(0, bisect_right(edges, hit.similarity) - 1)].append(hit.right)
    return bins


def _sizes(hits: Iterable[Hit], edges: Sequence[float]) -> list[float]:
    return [len(bin_) + PRIOR_HITS for bin_ in _bins(hits, edges)]


def _monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    fitted = isotonic_regression(
        np.asarray(values, dtype=np.float64), sample_weight=np.asarray(weights, dtype=np.float64), y_min=0, y_max=1
    )
    return [float(value) for value in fitted]
