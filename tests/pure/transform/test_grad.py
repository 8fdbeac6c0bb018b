"""value_and_grad: one meaning, two engines."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.grad import grad, value_and_grad
from pure.types import Tree

module = import_module("pure.transform.grad")


def make() -> tuple[Tree, Tensor]:
    params = {
        "w": random.normal(random.key(0), (4, 3)),
        "b": [random.normal(random.key(1), (4,))],
        "unused": torch.ones(2),
    }
    return params, random.normal(random.key(2), (5, 3))


def loss(params: Tree, x: Tensor) -> Tensor:
    return (x @ params["w"].T + params["b"][0]).tanh().square().sum()


def test_equals_the_formula() -> None:
    params, x = make()
    value, grads = value_and_grad(loss)(params, x)
    y = (x.double() @ params["w"].double().T + params["b"][0].double()).tanh()
    inner = 2 * y * (1 - y**2)
    torch.testing.assert_close(value, y.square().sum().float())
    torch.testing.assert_close(grads["w"], (inner.T @ x.double()).float())
    torch.testing.assert_close(grads["b"][0], inner.sum(0).float())
    assert (grads["unused"] == 0).all()


def test_the_two_engines_agree() -> None:
    params, x = make()
    by_autograd = module._by_autograd(loss, False, params, x)
    by_func = module._by_func(loss, False, params, x)
    torch.testing.assert_close(by_autograd, by_func, rtol=1e-6, atol=1e-6)
    assert tree.structure(by_autograd[1]) == tree.structure(params)


def test_aux_passes_and_nothing_carries_a_graph() -> None:
    params, x = make()
    (value, aux), grads = value_and_grad(lambda p, x: (loss(p, x), {"w": p["w"] * 2, "n": 3}), has_aux=True)(
        params, x
    )
    assert aux["n"] == 3
    torch.testing.assert_close(aux["w"], params["w"] * 2)
    assert not any(t.requires_grad for t in [value, aux["w"], *tree.leaves(grads), *tree.leaves(params)])


def test_under_vmap_equals_a_loop() -> None:
    params, x = make()
    together = torch.func.vmap(lambda row: grad(loss)(params, row[None])["w"])(x)
    alone = torch.stack([grad(loss)(params, row[None])["w"] for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_compiled_equals_eager() -> None:
    params, x = make()
    compiled = torch.compile(value_and_grad(loss), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(params, x), value_and_grad(loss)(params, x), rtol=1e-5, atol=1e-6)


def test_differentiates_twice() -> None:
    x = torch.tensor([2.0, 3.0])
    second = torch.func.jacrev(grad(lambda p: p.pow(3).sum()))(x)
    torch.testing.assert_close(second, torch.diag(6 * x))
    outer = grad(lambda p: grad(lambda q: q.pow(3).sum())(p).sum())(x)
    torch.testing.assert_close(outer, 6 * x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_params(dtype: torch.dtype) -> None:
    params, x = make()
    grads = grad(loss)(tree.cast(params, dtype), x.to(dtype))
    assert {g.dtype for g in tree.leaves(grads)} == {dtype}
