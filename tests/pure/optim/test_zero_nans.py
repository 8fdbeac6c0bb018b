"""`zero_nans`: NaN becomes 0, infinity stays, and `found_nan` describes the latest update."""

from __future__ import annotations

import torch

from pure import optim


def test_nans_become_zero_and_flags_describe_the_latest_update() -> None:
    opt, inf = optim.zero_nans(), float("inf")
    grads = {"a": torch.tensor([float("nan"), inf]), "b": torch.ones(1, dtype=torch.bfloat16)}
    updates, state = opt.update(grads, opt.init(grads))
    assert updates["a"].tolist() == [0.0, inf]
    assert updates["b"].dtype == torch.bfloat16
    assert {name: bool(flag) for name, flag in state.found_nan.items()} == {"a": True, "b": False}
    _, state = opt.update(updates, state)
    assert not any(state.found_nan.values())
