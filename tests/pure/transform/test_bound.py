"""Tensors bound in a function are found by their paths."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import optim
from pure.transform.bound import differentiable_parts
from stages.stage import stage


def quadratic(params: Tensor, batch: Any, key: Any) -> tuple[Tensor, Tensor, dict]:
    return params.square().sum(), torch.tensor(1.0), {}


def test_tensors_bound_in_a_function_are_found_where_they_are() -> None:
    x = torch.ones(2, requires_grad=True)

    def inner(y: Tensor, z: Tensor = x) -> Tensor:
        return y + z

    assert differentiable_parts(partial(inner, [torch.ones(1), x])) == ["default 0", "0.1"]
    assert differentiable_parts(stage(quadratic, optim.sgd(0.1))) == []
    found: list[str] = []
    torch.func.grad(
        lambda rate: found.extend(differentiable_parts(stage(quadratic, optim.sgd(rate)))) or rate
    )(torch.tensor(0.1))
    assert found
    assert all("learning_rate" in path or "step_size" in path for path in found)
