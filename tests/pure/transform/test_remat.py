"""`remat` (activation checkpointing) equals the plain function, and saves only its inputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.grad import value_and_grad
from pure.transform.jit import jit, region
from pure.transform.remat import remat


class LayerOutput(NamedTuple):
    """A result with a tensor and a dict."""

    y: Tensor
    rest: dict[str, Any]


def layer(params: Any, x: Tensor, mask: Tensor | None, depth: int) -> LayerOutput:
    """Trees, None, an int and integer tensors go in; trees and integers come out."""
    for _ in range(depth):
        x = (x @ params["w"]).tanh() * params["s"][0]
    x = x if mask is None else torch.where(mask, x, 0.0)
    return LayerOutput(x, {"largest": x.detach().argmax(-1), "nothing": None})


PARAMS = {"w": random.normal(random.key(0), (6, 6)) / 3, "s": [torch.tensor(1.1)]}
X = random.normal(random.key(1), (4, 6))
MASK = random.bernoulli(random.key(2), 0.7, (4, 6))


def loss(wrap: Callable, params: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    for _ in range(3):
        x = wrap(layer)(params, x, mask, 2).y
    return x.square().sum()


def gradient(wrap: Callable) -> Callable:
    """Value and gradient of `loss` in params and x, where `wrap` is `remat` or `identity`."""
    return lambda params, x, mask: value_and_grad(lambda p: loss(wrap, p["params"], p["x"], mask))(
        {"params": params, "x": x}
    )


def identity(function: Callable) -> Callable:
    """Return the function itself: no rematerialisation, or no transform."""
    return function


def assert_same(ours: Any, theirs: Any) -> None:
    for a, b in zip(tree.leaves(ours), tree.leaves(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_remat_equals_the_plain_function_in_eager_code(mask: Tensor | None) -> None:
    out = remat(layer)(PARAMS, X, mask, 2)
    assert isinstance(out, LayerOutput)
    assert out.rest["nothing"] is None
    assert out.rest["largest"].dtype == torch.int64
    assert_same(out, layer(PARAMS, X, mask, 2))
    assert_same(gradient(remat)(PARAMS, X, mask), gradient(identity)(PARAMS, X, mask))


@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_remat_equals_the_plain_function_under_grad_vmap_and_compile(mask: Tensor | None) -> None:
    expected = gradient(identity)(PARAMS, X, mask)
    grads, value = torch.func.grad_and_value(lambda p: loss(remat, p["params"], p["x"], mask))(
        {"params": PARAMS, "x": X}
    )
    assert_same((value, grads), expected)
    batch = torch.stack([X, X + 1, X - 1])
    by_vmap = torch.func.vmap(gradient(remat), (None, 0, None))(PARAMS, batch, mask)
    for ours, x in zip(tree.unstack(by_vmap), batch, strict=True):
        assert_same(ours, gradient(identity)(PARAMS, x, mask))
    for transform in (identity, lambda f: torch.func.vmap(f, (None, 0, None))):
        compiled = torch.compile(transform(gradient(remat)), backend="aot_eager", fullgraph=True)
        x = X if transform is identity else batch
        assert_same(compiled(PARAMS, x, mask), transform(gradient(identity))(PARAMS, x, mask))


def test_compiled_remat_differentiated_by_autograd_equals_the_plain_function() -> None:
    x = X.clone().requires_grad_()
    compiled = torch.compile(lambda x: loss(remat, PARAMS, x, MASK), backend="aot_eager", fullgraph=True)
    assert_same(torch.autograd.grad(compiled(x), x)[0], gradient(identity)(PARAMS, X, MASK)[1]["x"])


def test_remat_can_be_differentiated_twice() -> None:
    def squared_gradient_norm(wrap: Callable, x: Tensor) -> Tensor:
        return value_and_grad(lambda x: loss(wrap, PARAMS, x, None))(x)[1].square().sum()

    by_func, expected = [
        torch.func.grad(lambda x, w=wrap: squared_gradient_norm(w, x))(X) for wrap in (remat, identity)
    ]
    x = X.clone().requires_grad_()
    first = torch.autograd.grad(loss(remat, PARAMS, x, None), x, create_graph=True)[0]
    by_autograd = torch.autograd.grad(first.square().sum(), x)[0]
    assert_same(by_func, expected)
    assert_same(by_autograd, expected)


def test_the_recomputed_forward_pass_has_the_same_dropout_mask() -> None:
    def exp_with_dropout(x: Tensor, key: Tensor) -> Tensor:
        return x.exp() * random.bernoulli(key, 0.5, x.shape)

    x = X.clone().requires_grad_()
    y = remat(exp_with_dropout)(x, random.key(7))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())


def test_the_gradient_of_an_output_that_depends_on_no_input_is_zero() -> None:
    def double_and_ones(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, torch.ones(3)

    x, y = (torch.ones(3, requires_grad=True) for _ in range(2))
    first, second = remat(double_and_ones)(x, y)
    grads = torch.autograd.grad(first.sum() + second.sum(), (x, y), allow_unused=True, materialize_grads=True)
    assert [g.tolist() for g in grads] == [[2.0] * 3, [0.0] * 3]


def saved_bytes(function: Callable[[], Tensor]) -> int:
    """Count the bytes that a forward pass saves for the backward pass, each storage once."""
    size_by_address: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        size_by_address[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = function()
    assert out.requires_grad
    return sum(size_by_address.values())


@pytest.mark.parametrize("regions", [False, True], ids=["eager", "regions"])
def test_remat_saves_only_the_inputs_for_the_backward_pass(regions: bool) -> None:
    """Three layers with 8 activations each, in eager code and with each layer compiled as a region."""

    def eight_matmuls(w: Tensor, x: Tensor) -> Tensor:
        for _ in range(8):
            x = (x @ w).tanh()
        return x

    layer_region = region(eight_matmuls)

    def apply_layers(wrap: Callable, w: Tensor, x: Tensor) -> Tensor:
        for _ in range(3):
            x = wrap(layer_region)(w, x)
        return x.sum()

    w, x = ((random.normal(random.key(i), (64, 64)) / 8).requires_grad_() for i in range(2))

    def model(wrap: Callable) -> Callable[[Tensor, Tensor], Tensor]:
        def sum_of_layers(w: Tensor, x: Tensor) -> Tensor:
            return apply_layers(wrap, w, x)

        return jit(sum_of_layers, regions=True, backend="aot_eager") if regions else sum_of_layers

    matrix_bytes = 64 * 64 * 4
    assert saved_bytes(lambda: model(identity)(w, x)) >= 24 * matrix_bytes
    assert saved_bytes(lambda: model(remat)(w, x)) == 4 * matrix_bytes  # w, and the input of each layer
    assert_same(
        torch.autograd.grad(model(remat)(w, x), (w, x)), torch.autograd.grad(model(identity)(w, x), (w, x))
    )


def test_inputs_that_are_returned_unchanged_have_gradients() -> None:
    """A training step returns its key and other leaves as they came."""
    function = lambda p, x: {"p": p, "y": p * x, "x": x}  # noqa: E731
    total = lambda f, p, x: sum((v * v).sum() for v in f(p, x).values())  # noqa: E731
    p, x = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    found = value_and_grad(lambda args: total(remat(function), *args))([p, x])
    expected = value_and_grad(lambda args: total(function, *args))([p, x])
    torch.testing.assert_close(found, expected)


def test_a_module_that_remat_imports_may_be_the_first_import():
    code = "import pure.parallel.layers; from pure.transform import remat"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
