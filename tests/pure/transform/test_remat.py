"""Rematerialisation changes no number and forgets what happens inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.grad import value_and_grad
from pure.transform.jit import jit, region
from pure.transform.remat import remat


class Out(NamedTuple):
    y: Tensor
    rest: dict[str, Any]


def layer(params: Any, x: Tensor, mask: Tensor | None, depth: int) -> Out:
    """Trees, None, an int and integer tensors go in; trees and integers come out."""
    for _ in range(depth):
        x = (x @ params["w"]).tanh() * params["s"][0]
    x = x if mask is None else torch.where(mask, x, 0.0)
    return Out(x, {"largest": x.detach().argmax(-1), "nothing": None})


PARAMS = {"w": random.normal(random.key(0), (6, 6)) / 3, "s": [torch.tensor(1.1)]}
X = random.normal(random.key(1), (4, 6))
MASK = random.bernoulli(random.key(2), 0.7, (4, 6))


def loss(wrap: Callable, params: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    for _ in range(3):
        x = wrap(layer)(params, x, mask, 2).y
    return x.square().sum()


def gradient(wrap: Callable) -> Callable:
    return lambda params, x, mask: value_and_grad(lambda p: loss(wrap, p["params"], p["x"], mask))(
        {"params": params, "x": x}
    )


def plain(function: Callable) -> Callable:
    return function


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_equals_the_function_in_eager_code(mask: Tensor | None) -> None:
    out = remat(layer)(PARAMS, X, mask, 2)
    assert isinstance(out, Out)
    assert out.rest["nothing"] is None
    assert out.rest["largest"].dtype == torch.int64
    assert_same(out, layer(PARAMS, X, mask, 2))
    assert_same(gradient(remat)(PARAMS, X, mask), gradient(plain)(PARAMS, X, mask))


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_equals_the_function_under_transforms(mask: Tensor | None) -> None:
    expected = gradient(plain)(PARAMS, X, mask)
    grads, value = torch.func.grad_and_value(lambda p: loss(remat, p["params"], p["x"], mask))(
        {"params": PARAMS, "x": X}
    )
    assert_same((value, grads), expected)
    many = torch.stack([X, X + 1, X - 1])
    under = torch.func.vmap(gradient(remat), (None, 0, None))(PARAMS, many, mask)
    for ours, x in zip(tree.unstack(under), many, strict=True):
        assert_same(ours, gradient(plain)(PARAMS, x, mask))
    for transform in (plain, lambda f: torch.func.vmap(f, (None, 0, None))):
        compiled = torch.compile(transform(gradient(remat)), backend="aot_eager", fullgraph=True)
        x = X if transform is plain else many
        assert_same(compiled(PARAMS, x, mask), transform(gradient(plain))(PARAMS, x, mask))


def test_equals_the_function_compiled_and_differentiated_outside() -> None:
    x = X.clone().requires_grad_()
    compiled = torch.compile(lambda x: loss(remat, PARAMS, x, MASK), backend="aot_eager", fullgraph=True)
    assert_same(torch.autograd.grad(compiled(x), x)[0], gradient(plain)(PARAMS, X, MASK)[1]["x"])


def test_can_be_differentiated_twice() -> None:
    def size(wrap: Callable, x: Tensor) -> Tensor:
        return value_and_grad(lambda x: loss(wrap, PARAMS, x, None))(x)[1].square().sum()

    by_func = [torch.func.grad(lambda x, w=wrap: size(w, x))(X) for wrap in (remat, plain)]
    x = X.clone().requires_grad_()
    first = torch.autograd.grad(loss(remat, PARAMS, x, None), x, create_graph=True)[0]
    by_autograd = torch.autograd.grad(first.square().sum(), x)[0]
    assert_same(by_func[0], by_func[1])
    assert_same(by_autograd, by_func[1])


def test_draws_the_same_numbers_twice() -> None:
    def dropped(x: Tensor, key: Tensor) -> Tensor:
        return x.exp() * random.bernoulli(key, 0.5, x.shape)

    x = X.clone().requires_grad_()
    y = remat(dropped)(x, random.key(7))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())


def test_an_output_that_depends_on_nothing_gives_zeros() -> None:
    def partly(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, torch.ones(3)

    x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
    first, second = remat(partly)(x, y)
    grads = torch.autograd.grad(first.sum() + second.sum(), (x, y), allow_unused=True, materialize_grads=True)
    assert [g.tolist() for g in grads] == [[2.0] * 3, [0.0] * 3]


def saved(function: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = function()
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("regions", [False, True], ids=["eager", "regions"])
def test_keeps_only_the_inputs(regions: bool) -> None:
    """Three layers of 8 inner results each; also where each layer is compiled by itself."""

    def deep(w: Tensor, x: Tensor) -> Tensor:
        for _ in range(8):
            x = (x @ w).tanh()
        return x

    unit = region(deep)

    def chain(wrap: Callable, w: Tensor, x: Tensor) -> Tensor:
        for _ in range(3):
            x = wrap(unit)(w, x)
        return x.sum()

    w, x = ((random.normal(random.key(i), (64, 64)) / 8).requires_grad_() for i in range(2))

    def run(wrap: Callable) -> Callable[[Tensor, Tensor], Tensor]:
        def run_chain(w: Tensor, x: Tensor) -> Tensor:
            return chain(wrap, w, x)

        return jit(run_chain, regions=True, backend="aot_eager") if regions else run_chain

    one = 64 * 64 * 4
    assert saved(lambda: run(plain)(w, x)) >= 24 * one
    assert saved(lambda: run(remat)(w, x)) == 4 * one  # w, and the input of each layer
    assert_same(torch.autograd.grad(run(remat)(w, x), (w, x)), torch.autograd.grad(run(plain)(w, x), (w, x)))
