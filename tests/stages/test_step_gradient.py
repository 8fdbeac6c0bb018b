"""`stages.step_gradient`: the summed gradient, the norms of its leaves, and refusals; rows in `test_sharded`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure import random
from pure.transform.gradient import accumulation
from stages.state import TrainState
from stages.step_gradient import sum_gradient

PARAMS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
BATCH = {"x": torch.tensor([1.0, 2.0, 4.0, 5.0]), "batch_position": torch.arange(4)}


def weighted_sum(params: dict, batch: dict, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Loss x a[0] + 2 x a[1] + x² b of each row, whose gradient is known."""
    x = batch["x"]
    losses = x * params["a"][0] + 2 * x * params["a"][1] + x.square() * params["b"]
    return losses.sum(), torch.tensor(float(len(x))), {"rows": torch.tensor(float(len(x)))}


def compute(parts: int = 1, names: tuple[str, ...] = ("rows",), params: dict = PARAMS) -> tuple:
    state = TrainState(torch.tensor(0), random.key(0), params, (), {}, {})
    return sum_gradient(
        state,
        BATCH,
        random.key(1),
        loss=weighted_sum,
        gradient=accumulation(parts),
        names=names,
        elementwise=True,
    )


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_gradient_is_that_of_the_sum_and_each_leaf_has_its_norm(parts: int) -> None:
    sums, grads, norms, memory = compute(parts)
    torch.testing.assert_close(grads, {"a": torch.tensor([12.0, 24.0]), "b": torch.tensor(46.0)})
    torch.testing.assert_close(norms, torch.tensor([(12.0**2 + 24.0**2) ** 0.5, 46.0]))
    assert (sums.sum, sums.count, sums.metrics["rows"]) == (12 * 1 + 24 * 2 + 46 * 3, 4, 4)
    assert (sums.grads, memory) == ((), {})


def test_a_leaf_with_a_gradient_that_is_not_finite_has_such_a_norm() -> None:
    def infinite(params: dict, batch: dict, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return params["a"].sum() + params["b"] * torch.inf, torch.tensor(1.0), {}

    state = TrainState(torch.tensor(0), random.key(0), PARAMS, (), {}, {})
    _, _, norms, _ = sum_gradient(
        state, BATCH, random.key(1), loss=infinite, gradient=accumulation(1), names=(), elementwise=True
    )
    assert norms.isfinite().tolist() == [True, False]


def test_metrics_other_than_the_declared_ones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the loss reported the metrics \['rows'\], and \[\] were declared"):
        compute(names=())
