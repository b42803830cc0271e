"""Draws: right distribution, reproducible, and only from what is allowed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engine.sampling import Draw, sample, uniforms

V = 8
END_IDS_E = torch.tensor([0, 1])


def draw(rows: int, *, temperature: float = 1.0, top_p: float = 1.0, ban: bool = False, seed: int = 3) -> Draw:
    return Draw(
        temperature_R=torch.full((rows,), temperature),
        top_p_R=torch.full((rows,), top_p),
        ban_R=torch.full((rows,), ban),
        uniform_R=torch.from_numpy(uniforms(np.full(rows, seed), np.arange(rows))),
    )


def test_uniforms_are_uniform_and_depend_on_seed_and_position_alone() -> None:
    values = uniforms(np.arange(200_000) % 500, np.arange(200_000) // 500)
    assert 0 <= values.min() <= values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    chi2 = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi2 < 43.8  # the 0.999 quantile for 19 degrees of freedom
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(values[:-500], values[500:])[0, 1]) < 0.01
    assert uniforms(np.array([7, 8]), np.array([5, 5])).tolist() == [uniforms(np.array([s]), np.array([5]))[0] for s in (7, 8)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_the_softmax(temperature: float) -> None:
    logits_V = torch.linspace(-1, 1, V)
    ids_R, logprobs_R = sample(logits_V.repeat(40_000, 1), draw(40_000, temperature=temperature), END_IDS_E)
    expected_V = (logits_V / temperature).softmax(-1)
    assert torch.bincount(ids_R, minlength=V) / 40_000 == pytest.approx(expected_V, abs=0.01)
    assert logprobs_R == pytest.approx(expected_V.log()[ids_R], abs=1e-5)


def test_the_ban_takes_the_end_away_and_not_from_the_log_probs() -> None:
    logits_V = torch.tensor([9.0, 8.0, *[0.0] * (V - 2)])
    ids_R, logprobs_R = sample(logits_V.repeat(2000, 1), draw(2000, ban=True), END_IDS_E)
    assert set(ids_R.tolist()) == set(range(2, V))
    assert logprobs_R == pytest.approx(logits_V.log_softmax(-1)[ids_R], abs=1e-5)


def test_greedy_takes_the_largest_and_gives_plain_log_probs() -> None:
    logits_RV = torch.randn(50, V, generator=torch.Generator().manual_seed(1))
    mixed = draw(50, temperature=0.3)
    mixed.temperature_R[::2] = 0
    ids_R, logprobs_R = sample(logits_RV, mixed, END_IDS_E)
    assert ids_R[::2].tolist() == logits_RV[::2].argmax(-1).tolist()
    truth_R = logits_RV.log_softmax(-1).gather(1, ids_R[:, None])[:, 0]
    assert logprobs_R[::2] == pytest.approx(truth_R[::2], abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-20, 20), min_size=V, max_size=V), st.floats(0.01, 1), st.integers(0, 2**64 - 1))
def test_top_p_keeps_the_fewest_ids_that_reach_it(logits: list[float], top_p: float, seed: int) -> None:
    logits_V = torch.tensor(logits)
    ids_R, _ = sample(logits_V.repeat(64, 1), draw(64, top_p=top_p, seed=seed), END_IDS_E)
    sorted_V, order_V = logits_V.double().softmax(-1).sort(descending=True)
    before_V = sorted_V.cumsum(-1) - sorted_V
    kept = set(order_V[before_V < top_p + 1e-6].tolist())
    assert set(ids_R.tolist()) <= kept


def test_an_id_of_probability_zero_is_never_drawn() -> None:
    logits_V = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf, 0.0, -torch.inf, -torch.inf, -torch.inf])
    extreme = draw(2)
    extreme.uniform_R[0], extreme.uniform_R[1] = 0.0, 1 - 2.0**-53
    ids_R, _ = sample(logits_V.repeat(2, 1), extreme, END_IDS_E)
    assert ids_R.tolist() == [1, 4]
