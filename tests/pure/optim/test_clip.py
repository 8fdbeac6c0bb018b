"""`pure.optim.clip`: clipping by global norm and by value, against results worked out by hand."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree

GRADS = {  # of global norm 5
    "a": torch.tensor([3.0, 0.0]),
    "b": torch.tensor([[4.0]]),
}


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 0.2), (5.0, 1.0), (7.0, 1.0), (0.0, 0.0)])
def test_clip_by_global_norm_scales_gradients_down_to_max_norm(max_norm: float, factor: float) -> None:
    clipped, _ = optim.clip_by_global_norm(max_norm).update(GRADS, optim.EmptyState())
    torch.testing.assert_close(clipped, tree.map(lambda g: g * factor, GRADS))


def test_gradients_with_a_norm_below_max_norm_keep_every_bit() -> None:
    clipped, _ = optim.clip_by_global_norm(5.1).update(GRADS, optim.EmptyState())
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(clipped), tree.leaves(GRADS), strict=True))


def test_a_grad_norm_passed_to_update_replaces_the_computed_norm() -> None:
    clipped, _ = optim.clip_by_global_norm(1.0).update(
        {"a": GRADS["a"]}, optim.EmptyState(), grad_norm=torch.tensor(5.0)
    )
    torch.testing.assert_close(clipped["a"], torch.tensor([0.6, 0.0]))


def test_a_max_norm_of_0_keeps_gradients_of_zeros() -> None:
    """They have norm 0, which is not above it: 0 / 0 must not make NaN of finite gradients."""
    zeros = torch.zeros(2)
    assert torch.equal(optim.clip_by_global_norm(0.0).update(zeros, optim.EmptyState())[0], zeros)


def test_clipping_by_norm_turns_infinite_gradients_into_nan() -> None:
    """As in optax: clipping does not protect against gradients that are not finite."""
    clip = optim.clip_by_global_norm(1.0)
    clipped, _ = clip.update(torch.tensor([1.0, float("inf")]), optim.EmptyState())
    assert clipped[0] == 0
    assert clipped[1].isnan()
    assert clip.update(torch.tensor([1.0, float("nan")]), optim.EmptyState())[0].isnan().all()


@pytest.mark.parametrize("bound", [1.5, torch.tensor(1.5)])
def test_clip_by_value_bounds_every_element(bound: float | torch.Tensor) -> None:
    g = torch.tensor([-9.0, -1.0, 1.5, 2.0, float("inf")])
    clipped, _ = optim.clip(bound).update(g, optim.EmptyState())
    assert clipped.tolist() == [-1.5, -1.0, 1.5, 1.5, 1.5]
    clipped_bfloat16, _ = optim.clip(bound).update(g.bfloat16(), optim.EmptyState())
    assert clipped_bfloat16.dtype == torch.bfloat16


def test_bad_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_norm must be a finite number >= 0, got -1\.0"):
        optim.clip_by_global_norm(-1.0)
    with pytest.raises(ValueError, match="max_delta must be a finite number >= 0, got inf"):
        optim.clip(float("inf"))


def test_gradients_in_bfloat16_are_rounded_once() -> None:
    g = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    clip = optim.clip_by_global_norm(1.0)
    clipped, _ = clip.update(g, clip.init(g), None)
    assert torch.equal(clipped, (g.float() * (1.0 / g.float().norm())).bfloat16())
