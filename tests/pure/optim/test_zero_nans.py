"""NaN becomes 0, infinity stays, and the flag is that of the last update."""

from __future__ import annotations

import torch

from pure import optim


def test_flags_are_those_of_the_last_update() -> None:
    opt, inf = optim.zero_nans(), float("inf")
    first = {"a": torch.tensor([float("nan"), inf]), "b": torch.ones(1, dtype=torch.bfloat16)}
    updates, state = opt.update(first, opt.init(first))
    assert updates["a"].tolist() == [0.0, inf]
    assert updates["b"].dtype == torch.bfloat16
    assert {k: bool(v) for k, v in state.found_nan.items()} == {"a": True, "b": False}
    _, state = opt.update(updates, state)
    assert not any(state.found_nan.values())
