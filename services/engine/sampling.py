"""Drawing the next ids of a step.

A draw depends on its request's seed and on the position of the id that it draws, on nothing else: a counter-based uniform, turned into
an id by the inverse of the cumulative distribution. So what a request gets does not depend on which others share its step (beyond the
last bits of the logits, which a different batch shape may round differently).
Log-probs are log_softmax(logits / temperature), before the ban on end-of-turn ids and before `top_p`; greedy ones are of plain logits.
"""

from dataclasses import dataclass

import numpy as np
import torch

_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Draw:
    """How each of R rows draws its next id."""

    temperature_R: torch.Tensor
    top_p_R: torch.Tensor
    ban_R: torch.Tensor
    """Whether the end-of-turn ids are banned."""
    uniform_R: torch.Tensor
    """float64 in [0, 1)."""


def uniforms(seed_R: np.ndarray, position_R: np.ndarray) -> np.ndarray:
    """A float64 in [0, 1) for each pair of uint64 seed and position: SplitMix64 (Steele et al., 2014), seed and counter mixed in turn."""
    with np.errstate(over="ignore"):
        mixed_R = _mix(_mix(seed_R.astype(np.uint64) + _GOLDEN) + position_R.astype(np.uint64) * _GOLDEN)
    return (mixed_R >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x_R: np.ndarray) -> np.ndarray:
    x_R = (x_R ^ (x_R >> np.uint64(30))) * _MIX_1
    x_R = (x_R ^ (x_R >> np.uint64(27))) * _MIX_2
    return x_R ^ (x_R >> np.uint64(31))


def sample(logits_RV: torch.Tensor, draw: Draw, end_ids_E: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws `(ids_R, logprobs_R)`."""
    greedy_R = draw.temperature_R == 0
    scaled_RV = logits_RV / draw.temperature_R.masked_fill(greedy_R, 1.0)[:, None]
    logprobs_RV = scaled_RV.log_softmax(-1)
    if bool(draw.ban_R.any()):
        scaled_RV[draw.ban_R.nonzero(), end_ids_E] = -torch.inf
    if bool(greedy_R.all()):
        ids_R = scaled_RV.argmax(-1)
    else:
        # float64: a float32 running sum over a large vocabulary loses the tail
        weights_RV = scaled_RV.double().softmax(-1)
        if bool((draw.top_p_R < 1).any()):
            weights_RV = _nucleus(weights_RV, draw.top_p_R)
        ids_R = torch.where(greedy_R, scaled_RV.argmax(-1), _inverse(weights_RV, draw.uniform_R))
    return ids_R, logprobs_RV.gather(1, ids_R[:, None])[:, 0]


def _nucleus(weights_RV: torch.Tensor, top_p_R: torch.Tensor) -> torch.Tensor:
    """Keeps the fewest ids whose share reaches `top_p` (Holtzman et al., 2020)."""
    sorted_RV, order_RV = weights_RV.sort(-1, descending=True)
    before_RV = sorted_RV.cumsum(-1) - sorted_RV
    outside_RV = before_RV >= top_p_R[:, None].double() * sorted_RV.sum(-1, keepdim=True)
    outside_RV &= top_p_R[:, None] < 1
    return torch.zeros_like(weights_RV).scatter_(1, order_RV, sorted_RV.masked_fill(outside_RV, 0.0))


def _inverse(weights_RV: torch.Tensor, uniform_R: torch.Tensor) -> torch.Tensor:
    """The first id whose running sum exceeds uniform × total; ids of weight zero are never it."""
    cumulative_RV = weights_RV.cumsum(-1)
    total_R1 = cumulative_RV[:, -1:]
    target_R1 = torch.minimum(uniform_R[:, None] * total_R1, total_R1.nextafter(torch.zeros_like(total_R1)))
    # a row of NaN finds no id; the caller looks at the log-prob and refuses it
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0].clamp_(max=weights_RV.shape[1] - 1)
