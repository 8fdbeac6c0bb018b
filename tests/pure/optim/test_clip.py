"""Clipping by norm and by value."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree

GRADS = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 0.2), (5.0, 1.0), (7.0, 1.0), (0.0, 0.0)])
def test_by_norm(max_norm: float, factor: float) -> None:
    clipped, _ = optim.clip_by_global_norm(max_norm).update(GRADS, optim.EmptyState())
    torch.testing.assert_close(clipped, tree.map(lambda g: g * factor, GRADS))


def test_a_gradient_below_the_bound_is_not_touched() -> None:
    clipped, _ = optim.clip_by_global_norm(5.1).update(GRADS, optim.EmptyState())
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(clipped), tree.leaves(GRADS), strict=True))


def test_a_norm_that_is_given_is_taken() -> None:
    part, _ = optim.clip_by_global_norm(1.0).update(
        {"a": GRADS["a"]}, optim.EmptyState(), grad_norm=torch.tensor(5.0)
    )
    torch.testing.assert_close(part["a"], torch.tensor([0.6, 0.0]))


def test_non_finite_gradients() -> None:
    """As in optax: clipping is no protection."""
    clip = optim.clip_by_global_norm(1.0)
    spoiled, _ = clip.update(torch.tensor([1.0, float("inf")]), optim.EmptyState())
    assert spoiled[0] == 0
    assert spoiled[1].isnan()
    assert clip.update(torch.tensor([1.0, float("nan")]), optim.EmptyState())[0].isnan().all()


@pytest.mark.parametrize("bound", [1.5, torch.tensor(1.5)])
def test_by_value(bound: float | torch.Tensor) -> None:
    g = torch.tensor([-9.0, -1.0, 1.5, 2.0, float("inf")])
    clipped, _ = optim.clip(bound).update(g, optim.EmptyState())
    assert clipped.tolist() == [-1.5, -1.0, 1.5, 1.5, 1.5]
    narrow, _ = optim.clip(bound).update(g.bfloat16(), optim.EmptyState())
    assert narrow.dtype == torch.bfloat16


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"max_norm must be a finite number >= 0, got -1\.0"):
        optim.clip_by_global_norm(-1.0)
    with pytest.raises(ValueError, match="max_delta must be a finite number >= 0, got inf"):
        optim.clip(float("inf"))
