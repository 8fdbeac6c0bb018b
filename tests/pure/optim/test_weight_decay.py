"""Decoupled weight decay."""

from __future__ import annotations

import pytest
import torch

from pure import optim


def test_formula_and_mask() -> None:
    params = {"w": torch.tensor(4.0), "bias": torch.tensor(4.0)}
    grads = {"w": torch.tensor(1.0), "bias": torch.tensor(1.0)}
    opt = optim.add_decayed_weights(0.25, optim.decay_mask)
    updates, state = opt.update(grads, opt.init(params), params)
    assert updates == {"w": torch.tensor(2.0), "bias": torch.tensor(1.0)}
    assert state == optim.MaskedState(optim.EmptyState())


def test_a_schedule_of_decay_counts() -> None:
    opt = optim.add_decayed_weights(optim.linear_schedule(1.0, 0.0, 4))
    p = torch.tensor(8.0)
    state, seen = opt.init(p), []
    for _ in range(3):
        updates, state = opt.update(torch.tensor(0.0), state, p)
        seen.append(updates.item())
    assert seen == [8.0, 6.0, 4.0]
    assert state == optim.WeightDecaySchedule(torch.tensor(3))


def test_dtype_is_the_wider_of_the_two() -> None:
    opt = optim.add_decayed_weights(0.5)
    updates, _ = opt.update(torch.ones(1, dtype=torch.bfloat16), opt.init(torch.ones(1)), torch.ones(1))
    assert updates.dtype == torch.float32


def test_params_are_needed() -> None:
    opt = optim.adamw(0.1)
    with pytest.raises(
        ValueError, match=r"params is needed for weight decay: call update\(grads, state, params\)"
    ):
        opt.update(torch.ones(1), opt.init(torch.ones(1)))
    with pytest.raises(ValueError, match=r"weight_decay must be a finite number >= 0, got -0\.1"):
        optim.adamw(0.1, weight_decay=-0.1)
