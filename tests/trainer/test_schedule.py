import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cacherl.api.trainer import Budget
from services.trainer.schedule import Clock, rate_factor, scheduler

shares = st.floats(0, 1, allow_nan=False)


@given(shares, shares, shares)
def test_the_rate_falls_from_one_to_the_final_share_and_never_rises(progress, constant, final):
    here = rate_factor(progress, constant_share=constant, final_share=final)
    later = rate_factor(min(1.0, progress + 0.1), constant_share=constant, final_share=final)
    assert final - 1e-12 <= later <= here + 1e-12 <= 1 + 1e-9


def test_progress_is_the_larger_of_the_two_shares():
    clock = Clock(Budget(steps=10, seconds=100.0), steps=3, before_s=20.0)
    assert clock.progress == pytest.approx(0.3)
    clock.before_s = 50.0
    assert clock.progress == pytest.approx(0.5)
    clock.before_s = 500.0
    assert clock.over


def test_paused_seconds_do_not_count():
    clock = Clock(Budget(seconds=10.0))
    clock.start()
    with clock.paused():
        held = clock.seconds
        assert clock.seconds == held
    assert clock.seconds >= held
    clock.stop()
    assert clock.seconds == clock.seconds


def test_the_scheduler_asks_the_clock_not_its_own_count():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    clock = Clock(Budget(steps=100))
    rates = scheduler(optimizer, clock, constant_share=0.5, final_share=0.1, warm_up=0)
    clock.steps = 75
    parameter.grad = torch.zeros(1)
    optimizer.step()
    rates.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 - 0.9 * 0.5)
