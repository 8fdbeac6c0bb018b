"""`value_and_grad` and `grad`, whose two implementations (by autograd and by torch.func) must agree."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.grad import grad, value_and_grad
from pure.types import Tree

grad_module = import_module("pure.transform.grad")  # the attribute `grad` of the package is the function


def make_params_and_input() -> tuple[Tree, Tensor]:
    params = {
        "w": random.normal(random.key(0), (4, 3)),
        "b": [random.normal(random.key(1), (4,))],
        "unused": torch.ones(2),
    }
    return params, random.normal(random.key(2), (5, 3))


def loss(params: Tree, x: Tensor) -> Tensor:
    return (x @ params["w"].T + params["b"][0]).tanh().square().sum()


def test_gradients_equal_their_formula() -> None:
    params, x = make_params_and_input()
    value, grads = value_and_grad(loss)(params, x)
    y = (x.double() @ params["w"].double().T + params["b"][0].double()).tanh()
    inner = 2 * y * (1 - y**2)
    torch.testing.assert_close(value, y.square().sum().float())
    torch.testing.assert_close(grads["w"], (inner.T @ x.double()).float())
    torch.testing.assert_close(grads["b"][0], inner.sum(0).float())
    assert (grads["unused"] == 0).all()


def test_gradients_by_autograd_equal_those_by_torch_func() -> None:
    params, x = make_params_and_input()
    by_autograd = grad_module._by_autograd(loss, False, params, x)
    by_func = grad_module._by_func(loss, False, params, x)
    torch.testing.assert_close(by_autograd, by_func, rtol=1e-6, atol=1e-6)
    assert tree.structure(by_autograd[1]) == tree.structure(params)


def test_aux_is_returned_and_no_result_requires_grad() -> None:
    params, x = make_params_and_input()

    def loss_and_aux(p: Tree, x: Tensor) -> tuple[Tensor, dict]:
        return loss(p, x), {"w": p["w"] * 2, "n": 3}

    (value, aux), grads = value_and_grad(loss_and_aux, has_aux=True)(params, x)
    assert aux["n"] == 3
    torch.testing.assert_close(aux["w"], params["w"] * 2)
    assert not any(t.requires_grad for t in [value, aux["w"], *tree.leaves(grads), *tree.leaves(params)])


def test_grad_under_vmap_equals_a_loop() -> None:
    params, x = make_params_and_input()
    by_vmap = torch.func.vmap(lambda row: grad(loss)(params, row[None])["w"])(x)
    by_loop = torch.stack([grad(loss)(params, row[None])["w"] for row in x])
    torch.testing.assert_close(by_vmap, by_loop, rtol=1e-5, atol=1e-6)


def test_compiled_value_and_grad_equals_eager() -> None:
    params, x = make_params_and_input()
    compiled = torch.compile(value_and_grad(loss), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(params, x), value_and_grad(loss)(params, x), rtol=1e-5, atol=1e-6)


def test_grad_can_be_differentiated_again() -> None:
    x = torch.tensor([2.0, 3.0])
    second = torch.func.jacrev(grad(lambda p: p.pow(3).sum()))(x)
    torch.testing.assert_close(second, torch.diag(6 * x))
    grad_of_grad = grad(lambda p: grad(lambda q: q.pow(3).sum())(p).sum())(x)
    torch.testing.assert_close(grad_of_grad, 6 * x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_params(dtype: torch.dtype) -> None:
    params, x = make_params_and_input()
    grads = grad(loss)(tree.cast(params, dtype), x.to(dtype))
    assert {g.dtype for g in tree.leaves(grads)} == {dtype}


@pytest.mark.parametrize("outer", [grad, torch.func.grad])
def test_an_outer_gradient_flows_to_arguments_and_closures(outer: Callable) -> None:
    """d/db of ∂(b w²)/∂w at w = 3 is 2 w = 6, wherever b comes from."""
    w, b = torch.tensor(3.0), torch.tensor(2.0)
    by_argument = lambda b: grad(lambda w, b: b * w**2)(w, b)  # noqa: E731
    by_closure = lambda b: grad(lambda w: b.exp().log() * w**2)(w)  # noqa: E731
    by_aux = lambda b: grad(lambda w: (w**2, w * b), has_aux=True)(w)[1]  # noqa: E731
    torch.testing.assert_close(outer(by_argument)(b), torch.tensor(6.0))
    torch.testing.assert_close(outer(by_closure)(b), torch.tensor(6.0))
    torch.testing.assert_close(outer(by_aux)(b), torch.tensor(3.0))


def test_a_value_that_depends_on_no_leaf_has_gradient_zero() -> None:
    assert grad(lambda p: torch.tensor(1.0))({"x": torch.ones(2)})["x"].tolist() == [0.0, 0.0]


def test_gradients_under_inference_mode_are_not_zero() -> None:
    params, x = make_params_and_input()
    expected = grad(loss)(params, x)
    with torch.inference_mode():
        found = grad(loss)(params, x)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True))


def test_a_gradient_of_a_gradient_through_fused_attention_says_what_to_take() -> None:
    q = random.normal(random.key(0), (1, 1, 4, 8))

    def attend(q: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, q, q).square().sum()

    with pytest.raises(
        ValueError, match=r"grad: torch has no second derivative .* attn_implementation='eager'"
    ):
        grad(lambda q: grad(attend)(q).square().sum())(q)
