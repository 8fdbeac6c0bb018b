"""`add_decayed_weights`: decoupled weight decay."""

from __future__ import annotations

import pytest
import torch

from pure import optim


def test_weight_decay_times_params_is_added_where_the_mask_is_true() -> None:
    params = {"w": torch.tensor(4.0), "bias": torch.tensor(4.0)}
    grads = {"w": torch.tensor(1.0), "bias": torch.tensor(1.0)}
    opt = optim.add_decayed_weights(0.25, optim.decay_mask)
    updates, state = opt.update(grads, opt.init(params), params)
    assert updates == {"w": torch.tensor(2.0), "bias": torch.tensor(1.0)}
    assert state == optim.MaskedState(optim.EmptyState())


def test_a_schedule_of_weight_decay_advances_with_each_update() -> None:
    opt = optim.add_decayed_weights(optim.linear_schedule(1.0, 0.0, 4))
    p = torch.tensor(8.0)
    state, update_history = opt.init(p), []
    for _ in range(3):
        updates, state = opt.update(torch.tensor(0.0), state, p)
        update_history.append(updates.item())
    assert update_history == [8.0, 6.0, 4.0]
    assert state == optim.WeightDecaySchedule(torch.tensor(3))


def test_updates_have_the_wider_dtype_of_updates_and_params() -> None:
    opt = optim.add_decayed_weights(0.5)
    updates, _ = opt.update(torch.ones(1, dtype=torch.bfloat16), opt.init(torch.ones(1)), torch.ones(1))
    assert updates.dtype == torch.float32


def test_missing_params_and_negative_weight_decay_are_refused() -> None:
    opt = optim.adamw(0.1)
    with pytest.raises(
        ValueError, match=r"params is needed for weight decay: call update\(grads, state, params\)"
    ):
        opt.update(torch.ones(1), opt.init(torch.ones(1)))
    with pytest.raises(ValueError, match=r"weight_decay must be a finite number >= 0, got -0\.1"):
        optim.adamw(0.1, weight_decay=-0.1)
