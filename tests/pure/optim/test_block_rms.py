"""`pure.optim.block_rms`: clipping by root mean squares of leaves, and scaling by those of params."""

from __future__ import annotations

import pytest
import torch

from pure import optim


def test_each_leaf_is_clipped_by_its_own_root_mean_square() -> None:
    grads = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([0.3])}
    clipped, _ = optim.clip_by_block_rms(2.0).update(grads, optim.EmptyState())
    torch.testing.assert_close(clipped["a"], grads["a"] * 2.0 / 12.5**0.5)
    assert torch.equal(clipped["b"], grads["b"])


def test_a_threshold_of_0_keeps_leaves_of_zeros() -> None:
    grads = {"a": torch.zeros(2), "b": torch.ones(2), "c": torch.tensor([torch.nan, 1.0])}
    clipped, _ = optim.clip_by_block_rms(0.0).update(grads, optim.EmptyState())
    assert torch.equal(clipped["a"], grads["a"])
    assert torch.equal(clipped["b"], torch.zeros(2))
    assert clipped["c"].isnan().all()


def test_params_at_zero_have_the_minimum_scale_and_a_derivative_of_zero() -> None:
    opt = optim.scale_by_param_block_rms(0.01)
    p = torch.zeros(3, requires_grad=True)
    updates, _ = opt.update(torch.ones(3), optim.EmptyState(), p)
    assert torch.equal(updates, torch.full((3,), 0.01))
    assert torch.equal(torch.autograd.grad(updates.sum(), p)[0], torch.zeros(3))


def test_scaling_without_params_is_refused() -> None:
    with pytest.raises(ValueError, match="scale_by_param_block_rms: expected params, got None"):
        optim.scale_by_param_block_rms().update(torch.ones(2), optim.EmptyState())
