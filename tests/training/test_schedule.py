"""Schedules begin, turn and end where they should."""

import itertools

import pytest
import torch

from alzmri.training.loop import learning_rate


def _rates(make_params, schedule, warmup=0):
    train = make_params(train={"lr": 0.1, "epochs": 10, "schedule": schedule, "warmup": warmup})
    return [learning_rate(train.train, step, 10) for step in range(100)]


def test_constant_is_constant_after_a_warmup_in_a_straight_line(make_params):
    assert set(_rates(make_params, "constant")) == {0.1}
    rates = _rates(make_params, "constant", warmup=2)
    steps = [b - a for a, b in itertools.pairwise(rates[:21])]
    assert min(steps) == pytest.approx(max(steps))
    assert set(rates[20:]) == {0.1}


@pytest.mark.parametrize("warmup", [0, 2])
def test_cosine_falls_from_the_rate_to_almost_nothing(make_params, warmup):
    rates = _rates(make_params, "cosine", warmup)
    rising, falling = rates[: 10 * warmup], rates[10 * warmup :]
    assert rising == sorted(rising)
    assert falling[0] == 0.1
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 1e-4


def test_onecycle_begins_peaks_and_ends_where_torchs_does(make_params):
    rates = _rates(make_params, "onecycle")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=100, final_div_factor=400
    )
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert rates[0] == pytest.approx(expected[0])
    assert rates[-1] == pytest.approx(expected[-1])
    assert abs(rates.index(max(rates)) - expected.index(max(expected))) <= 1


def test_onecycle_rises_as_long_as_a_warmup_that_is_given(make_params):
    rates = _rates(make_params, "onecycle", warmup=2)
    assert rates.index(max(rates)) == 20
    assert rates[20] == 0.1
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
