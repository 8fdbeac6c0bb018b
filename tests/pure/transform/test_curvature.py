"""Products with the Hessian and the Gauss-Newton matrix against dense matrices, in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.curvature import gauss_newton_product, ggnvp, hessian_product, hutchinson, hvp, lanczos
from pure.transform.krylov import ravel, unravel
from stages.sft import sft
from stages.stage import loss_of

KEY = random.key(0)
PARAMS = {
    "v": random.normal(random.key(1), (3, 4)).double(),
    "w": random.normal(random.key(2), (4, 2)).double(),
    "unused": torch.zeros(2, dtype=torch.float64),
}
X, Y = random.normal(random.key(3), (6, 2)).double(), torch.tensor([0, 1, 2, 2, 1, 0])
SIZE = tree.count(PARAMS)
BASIS = torch.eye(SIZE, dtype=torch.float64)


def outputs(params: Any) -> Tensor:
    return (X @ params["w"].T).tanh() @ params["v"].T


def head(z: Tensor) -> Tensor:
    return F.cross_entropy(z, Y, reduction="sum")


def loss(params: Any) -> Tensor:
    return head(outputs(params))


def on_vectors(function: Callable[[Any], Any]) -> Callable[[Tensor], Any]:
    return lambda flat: function(unravel(flat, PARAMS))


def dense(product: Callable[[Any], Any]) -> Tensor:
    return torch.stack([ravel(product(unravel(e, PARAMS))) for e in BASIS], 1)


HESSIAN = torch.autograd.functional.hessian(on_vectors(loss), ravel(PARAMS))
JACOBIAN = torch.autograd.functional.jacobian(on_vectors(lambda p: outputs(p).flatten()), ravel(PARAMS))
HEAD = torch.autograd.functional.hessian(lambda z: head(z.unflatten(0, (6, 3))), outputs(PARAMS).flatten())
GAUSS_NEWTON = JACOBIAN.T @ HEAD @ JACOBIAN
PRODUCTS: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "hvp": (partial(hvp(loss), PARAMS), HESSIAN),
    "hessian_product": (hessian_product(loss, PARAMS), HESSIAN),
    "ggnvp": (partial(ggnvp(outputs, head), PARAMS), GAUSS_NEWTON),
    "gauss_newton_product": (gauss_newton_product(outputs, head, PARAMS), GAUSS_NEWTON),
}
LM = transformer(
    ModelConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=1)
)  # fmt: skip
TOKENS = random.randint(random.key(4), (3, 6), 0, 11).long()


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_the_columns_of_the_dense_matrix(name: str) -> None:
    product, matrix = PRODUCTS[name]
    torch.testing.assert_close(dense(product), matrix, rtol=1e-10, atol=1e-12)
    batched = torch.func.vmap(lambda e: ravel(product(unravel(e, PARAMS))))(BASIS)
    torch.testing.assert_close(batched.T, matrix, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PRODUCTS)
def test_an_outer_gradient_flows_through_products(name: str) -> None:
    """Through the params, the vector and the closure, the last by finite differences."""
    make = {
        "h": lambda f, g: hessian_product(f, PARAMS),
        "g": lambda f, g: gauss_newton_product(g, head, PARAMS),
    }
    vector = unravel(random.normal(KEY, (SIZE,)).double(), PARAMS)
    product, matrix = PRODUCTS[name]
    moving = ravel(vector).requires_grad_()
    image = ravel(product(unravel(moving, PARAMS)))
    torch.testing.assert_close(torch.autograd.grad(image.sum(), moving)[0], matrix.sum(0))

    def with_scale(scale: Tensor) -> Tensor:
        build = make["g" if "g" in name[:2] else "h"]
        scaled = lambda p: scale * outputs(p)  # noqa: E731
        return ravel(build(lambda p: head(scaled(p)), scaled)(vector)).sum()

    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(with_scale(scale), scale)[0]
    near = [with_scale(torch.tensor(1.0 + e, dtype=torch.float64)) for e in (1e-5, -1e-5)]
    torch.testing.assert_close(found, (near[0] - near[1]) / 2e-5, rtol=1e-7, atol=1e-7)


def test_products_of_a_language_model_equal_those_by_forward_mode() -> None:
    params = tree.cast(LM.init(KEY), torch.float64)
    values, spec = tree.flatten(params)
    vector = [random.normal(random.key(50 + i), x.shape).double() for i, x in enumerate(values)]
    logits = lambda p: LM.forward(p, TOKENS[:, :-1])  # noqa: E731
    entropy = lambda z: cross_entropy(z, TOKENS[:, 1:])[0]  # noqa: E731

    def flat(leaves: list[Tensor]) -> Tensor:
        return logits(tree.unflatten(spec, leaves))

    z, along = torch.func.jvp(flat, (values,), (vector,))
    curved = torch.func.jvp(torch.func.grad(entropy), (z,), (along,))[1]
    expected = torch.func.vjp(flat, values)[1](curved)[0]
    found = ggnvp(logits, entropy)(params, tree.unflatten(spec, vector))
    torch.testing.assert_close(tree.leaves(found), expected, rtol=1e-9, atol=1e-11)
    gradient = torch.func.grad(lambda leaves: entropy(flat(leaves)))
    expected = torch.func.jvp(gradient, (values,), (vector,))[1]
    found = hvp(lambda p: entropy(logits(p)))(params, tree.unflatten(spec, vector))
    torch.testing.assert_close(tree.leaves(found), expected, rtol=1e-9, atol=1e-11)


def test_the_largest_eigenvalue_of_the_hessian_of_adapters() -> None:
    model = lora(LM, tree.cast(LM.init(KEY), torch.float64), rank=1, targets=("v",))
    stage = sft(model, optim.sgd(0.1))
    adapters = tree.map(lambda x: x.double() + 0.1, model.init(random.key(6)))
    batch = {"tokens": TOKENS[:, :-1], "labels": TOKENS[:, 1:]}

    def mean_loss(params: Any) -> Tensor:
        total, count, _ = loss_of(stage)(params, batch, None)
        return total / count

    found = lanczos(hessian_product(mean_loss, adapters), KEY, adapters, tree.count(adapters))
    dense = torch.autograd.functional.hessian(lambda x: mean_loss(unravel(x, adapters)), ravel(adapters))
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(dense), rtol=1e-9, atol=1e-11)


def test_lanczos_and_hutchinson_of_the_hessian_equal_its_eigenvalues_and_trace() -> None:
    product = hessian_product(loss, PARAMS)
    found = lanczos(product, KEY, PARAMS, SIZE)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(HESSIAN), rtol=1e-9, atol=1e-9)
    trace = hutchinson(product, KEY, PARAMS, 200)
    off_diagonal = (HESSIAN - HESSIAN.diag().diag()).square().sum()
    torch.testing.assert_close(trace.standard_error, (2 * off_diagonal / 200).sqrt(), rtol=0.2, atol=0.0)
    assert (trace.value - HESSIAN.trace()).abs() < 3 * trace.standard_error


def test_a_constant_and_a_linear_function_have_no_curvature() -> None:
    for function in (lambda p: torch.zeros(()), lambda p: p.sum()):
        assert hvp(function)(torch.ones(3), torch.ones(3)).eq(0).all()
        assert ggnvp(torch.square, function)(torch.ones(3), torch.ones(3)).eq(0).all()
    assert (
        ggnvp(lambda p: torch.ones(2), lambda z: z.square().sum())(torch.ones(3), torch.ones(3)).eq(0).all()
    )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="curvature: the vector must have the structure of the params"):
        hvp(loss)(PARAMS, {"w": PARAMS["w"]})
    with pytest.raises(ValueError, match="hutchinson: expected at least 2 samples"):
        hutchinson(lambda v: v, KEY, PARAMS, 1)
    with pytest.raises(ValueError, match=r"hvp: expected a function that returns one number \[\], got \[3\]"):
        hvp(torch.square)(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"ggnvp: expected a function that returns one number \[\], got tup"):
        ggnvp(torch.square, lambda z: (z.sum(), 3))(torch.ones(3), torch.ones(3))
    one, several = (
        partial(hvp(torch.sum), torch.ones(3)),
        torch.func.vmap(partial(hvp(torch.sum), torch.ones(3))),
    )
    for call in (one, several):
        with pytest.raises(ValueError, match=r"the vector must have the shapes of the params, \[3\], got"):
            call(torch.ones(2, 1))


def test_fused_attention_is_refused_with_the_backends_that_have_second_derivatives() -> None:
    model = transformer(LM.config, backend="sdpa")
    params = model.init(KEY)
    logits = lambda p: model.forward(p, TOKENS)  # noqa: E731
    total = lambda z: z.logsumexp(-1).sum()  # noqa: E731
    products = (partial(hvp(lambda p: total(logits(p))), params), partial(ggnvp(logits, total), params))
    for product in products:

        def norm(scale: Tensor, product: Any = product) -> Tensor:
            return tree.norm(product(tree.map(lambda x: x * scale, params)))

        for call in (norm, torch.func.grad(norm)):
            with pytest.raises(
                ValueError, match=r"no second derivative of .* with backend='naive' or 'flash'"
            ):
                call(torch.ones(()))
