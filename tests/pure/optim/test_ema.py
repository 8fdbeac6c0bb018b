"""`pure.optim.ema`: moving averages of updates and of parameters, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


@pytest.mark.parametrize("debias", [False, True])
def test_ema_equals_the_weighted_sum_of_all_values(debias: bool) -> None:
    values = np.random.default_rng(0).normal(size=(12, 3))
    weights = 0.2 * 0.8 ** np.arange(11, -1, -1)
    expected = weights @ values / (weights.sum() if debias else 1.0)
    average = optim.ema(0.8, debias=debias)
    state = average.init(torch.zeros(3, dtype=torch.float64))
    for x in values:
        out, state = average.update(torch.tensor(x), state)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12)


def test_incremental_update_moves_the_average_by_a_fraction_of_the_difference() -> None:
    average = {"w": torch.tensor([1.0, 2.0])}
    new = {"w": torch.tensor([3.0, 2.0])}
    moved = optim.incremental_update(new, average, torch.tensor(0.25))
    torch.testing.assert_close(moved["w"], torch.tensor([1.5, 2.0]))
    moved_bfloat16 = optim.incremental_update(new, {"w": average["w"].bfloat16()}, 0.25)
    assert moved_bfloat16["w"].dtype == torch.bfloat16


def test_ema_of_bfloat16_values_is_float32_with_accumulator_dtype_float32() -> None:
    average = optim.ema(0.5, accumulator_dtype=torch.float32)
    out, state = average.update(torch.ones(1).bfloat16(), average.init(torch.ones(1).bfloat16()))
    assert (out.dtype, state.ema.dtype) == (torch.float32, torch.float32)


def test_bad_arguments_of_ema_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ema: decay must be in \[0, 1\), got 1.0"):
        optim.ema(1.0)
    with pytest.raises(TypeError, match="accumulator_dtype"):
        optim.ema(0.9, accumulator_dtype=torch.int32)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_warmed_decay_equals_its_formula(decay: float) -> None:
    """(1 + t) / (10 + t) at step t, but at most `decay`."""
    for t in (0, 1, 5, 100, 10_000):
        warmed = optim.warmed_decay(decay, torch.tensor(t, dtype=torch.int32))
        assert warmed.item() == pytest.approx(min(decay, (1 + t) / (10 + t)), rel=1e-6)


def test_the_average_of_bfloat16_values_is_computed_in_float32() -> None:
    average, x = (
        optim.ema(0.9, debias=False, accumulator_dtype=torch.float32),
        torch.tensor([1 / 3]).bfloat16(),
    )
    _, state = average.update(x, average.init(x))
    torch.testing.assert_close(state.ema, 0.1 * x.float(), rtol=1e-6, atol=0)
