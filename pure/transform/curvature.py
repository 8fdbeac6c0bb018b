"""Curvature of a loss: products of its Hessian and Gauss-Newton matrix with a vector, and their trace.

Neither matrix is ever stored: a model of N parameters has N² second derivatives, and a product costs two or
three gradients. Eigenvalues (`lanczos`) and solutions (`cg`), in `pure.transform.krylov`, need only products.

Shape letters: N numbers in the params, Z numbers in the outputs.

Pearlmutter, "Fast Exact Multiplication by the Hessian", 1994; Schraudolph, "Fast Curvature Matrix-Vector
Products for Second-Order Gradient Descent", 2002; Hutchinson, "A Stochastic Estimator of the Trace of the
Influence Matrix for Laplacian Smoothing Splines", 1990.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import random, tree
from pure.transform.arguments import require
from pure.transform.grad import check_floating, grad, reaches_others
from pure.transform.krylov import Lanczos, Product, Solved, cg, lanczos, ravel, unravel
from pure.transform.modes import may_be_differentiated, second_derivatives
from pure.types import Tree

__all__ = [
    "Lanczos",
    "Product",
    "Solved",
    "Trace",
    "cg",
    "gauss_newton_product",
    "ggnvp",
    "hessian_product",
    "hutchinson",
    "hvp",
    "lanczos",
]


class Trace(NamedTuple):
    """Estimate of a trace.

    Fields:
        value: [] float, the mean of the samples.
        standard_error: [] float, their standard deviation over √samples.
    """

    value: Tensor
    standard_error: Tensor


def hvp(function: Callable[..., Tensor]) -> Callable[..., Tree]:
    """Returns a function that computes the product of the Hessian with a vector.

        H v = ∂/∂params ⟨∂f/∂params, v⟩

    Args:
        function: (params, *rest) -> [] float, such as a loss.

    Returns:
        (params, v, *rest) -> H v, like params; v is a tree like params. It is a gradient of a gradient, about
        2.3 times the time of one. Many products at the same params: `hessian_product`.

    Edge cases: a leaf that the gradient does not depend on has product 0.

    Raises:
        ValueError: if the function's result is not [], v has not the structure and shapes of the params (on
            the call), or torch has no second derivative of an operation (fused attention).

    Example:
        The Hessian of x² y at (1, 2) is [[4, 2], [2, 0]].

        >>> function = lambda p: p["x"] ** 2 * p["y"]
        >>> point = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}
        >>> hvp(function)(point, {"x": torch.tensor(1.0), "y": torch.tensor(0.0)})
        {'x': tensor(4.), 'y': tensor(2.)}

    Source: Pearlmutter 1994, who uses forward mode over reverse mode. Reverse over reverse here: torch's
    forward mode has no rule for the backward passes of some operations (silu, fused attention), and where it
    has one, it took 7 gradients on a CPU.
    """
    return require("hvp(function)", "params, v", partial(_hvp, function), further=None)


def hessian_product(function: Callable[..., Tensor], params: Tree, *rest: Any) -> Product:
    """Returns v ↦ H v at fixed params, for many products: the gradient is computed once.

    Args:
        function: (params, *rest) -> [] float.
        params: tree of float tensors.
        rest: further arguments of `function`.

    Returns:
        v -> H v, trees like params. It keeps the graph of one gradient in memory, and a product is one pass
        backward through it, about 1.4 times the time of a gradient.

    Raises:
        ValueError: as `hvp`; at once, or for v in the product.

    Example:
        >>> product = hessian_product(lambda p: (p**3).sum(), torch.tensor([1.0, 2.0]))
        >>> product(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])

    Source: as `hvp`.
    """
    check_floating("curvature", params)
    if may_be_differentiated(params):
        return lambda v: _hvp_by_grad(function, params, v, *rest)
    values, spec = tree.flatten(params)
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in values]
        value = _check_scalar("hvp", function(tree.unflatten(spec, leaves), *rest))
        grads = _vjp([value], leaves, [torch.ones_like(value)], create_graph=True)
    has_outer = torch.is_grad_enabled() and reaches_others([value], leaves)

    def product(v: Tree) -> Tree:
        vectors = _leaves_like(params, v)
        if has_outer or may_be_differentiated(v):
            return _hvp_by_grad(function, params, v, *rest)
        return tree.unflatten(spec, _vjp(grads, leaves, vectors, retain_graph=True))

    return product


def ggnvp(outputs: Callable[..., Tree], loss: Callable[..., Tensor]) -> Callable[..., Tree]:
    """Returns a function that computes the product of the generalised Gauss-Newton matrix with a vector.

    The Hessian of a trained network is seldom positive definite. The Gauss-Newton matrix leaves out the
    curvature of the outputs, so that it is positive semidefinite for every loss that is convex in them
    (cross-entropy in the logits, squared error); there it is the Fisher matrix.

        G = Jᵀ H_z J,     J = ∂z/∂params,  H_z = ∂²loss/∂z²,  z = outputs(params)

    Args:
        outputs: (params, *rest) -> z, a tensor or a tree of tensors, such as a model's logits.
        loss: (z, *rest) -> [] float.

    Returns:
        (params, v, *rest) -> G v, like params. About 1.9 times the time of a gradient; for many products at
        the same params, `gauss_newton_product`.

    Raises:
        ValueError: if the loss is not [], or v has not the structure and shapes of params.

    Example:
        Outputs (a², a b) with the loss ‖z‖²/2: G = Jᵀ J, and J = [[2, 0], [3, 1]] at a = 1, b = 3.

        >>> outputs = lambda p: torch.stack([p[0] ** 2, p[0] * p[1]])
        >>> product = ggnvp(outputs, lambda z: z.square().sum() / 2)
        >>> product(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.0]))
        tensor([13.,  3.])

    Source: Schraudolph 2002, section 3. J v by two passes backward: z ↦ Jᵀ u is linear in u, and its own
    transposed product is J v.
    """
    return require("ggnvp(outputs, loss)", "params, v", partial(_ggnvp, outputs, loss), further=None)


def gauss_newton_product(
    outputs: Callable[..., Tree], loss: Callable[..., Tensor], params: Tree, *rest: Any
) -> Product:
    """Returns v ↦ G v at fixed params, for many products: the forward pass runs once.

    Args:
        outputs, loss: as in `ggnvp`.
        params: tree of float tensors.
        rest: further arguments of both.

    Returns:
        v -> G v, trees like params. It keeps the graphs of the outputs in memory; a product takes about the
        time of a gradient.

    Source: as `ggnvp`.
    """
    if may_be_differentiated(params):
        return lambda v: _ggnvp_by_func(outputs, loss, params, v, *rest)
    values, spec = tree.flatten(params)
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in values]
        z, z_spec = tree.flatten(outputs(tree.unflatten(spec, leaves), *rest))
        dual = [torch.zeros_like(x, requires_grad=True) for x in z]
        pulled = _vjp(z, leaves, dual, create_graph=True)
        head = [x.detach().requires_grad_() for x in z]
        value = _check_scalar("ggnvp", loss(tree.unflatten(z_spec, head), *rest))
        head_grads = _vjp([value], head, [torch.ones_like(value)], create_graph=True)
    has_outer = torch.is_grad_enabled() and reaches_others([*z, value], [*leaves, *head])

    def product(v: Tree) -> Tree:
        vectors = _leaves_like(params, v)
        if has_outer or may_be_differentiated(v):
            return _ggnvp_by_func(outputs, loss, params, v, *rest)
        along = _vjp(pulled, dual, vectors, retain_graph=True)
        curved = _vjp(head_grads, head, along, retain_graph=True)
        return tree.unflatten(spec, _vjp(z, leaves, curved, retain_graph=True))

    return product


def hutchinson(product: Product, key: Tensor, like: Tree, samples: int) -> Trace:
    """Estimates the trace of a symmetric matrix from products with random signs.

        tr A = E[sᵀ A s],     s ∈ {-1, 1}ᴺ uniform;     variance of a sample = 2 Σ_{i≠j} A_ij²

    Args:
        product: v -> A v, such as `hessian_product(loss, params)`.
        key: [2] uint32.
        like: tree whose shapes and dtypes the vectors have, such as the params.
        samples: products computed, >= 2.

    Returns:
        Trace(value, standard_error).

    Edge cases: a diagonal matrix has standard error 0: every sample is its trace.

    Raises:
        ValueError: if samples < 2, of which one has no standard error.

    Example:
        >>> hutchinson(lambda v: 3 * v, random.key(0), torch.zeros(5), 2).value
        tensor(15.)

    Source: Hutchinson 1990, proposition 1.
    """
    if samples < 2:
        raise ValueError(f"hutchinson: expected at least 2 samples (for a standard error), got {samples}")
    size, dtype = tree.count(like), tree.shared_dtype(like)
    found = []
    for i in range(samples):
        signs = random.rademacher(random.fold_in(key, i), (size,), dtype)
        found.append(signs @ ravel(product(unravel(signs, like))).to(dtype))
    stacked = torch.stack(found)
    return Trace(stacked.mean(), stacked.std() / samples**0.5)


def _hvp(function: Callable, params: Tree, v: Tree, *rest: Any) -> Tree:
    """One product."""
    return hessian_product(function, params, *rest)(v)


def _ggnvp(outputs: Callable, loss: Callable, params: Tree, v: Tree, *rest: Any) -> Tree:
    """One product."""
    return gauss_newton_product(outputs, loss, params, *rest)(v)


def _hvp_by_grad(function: Callable, params: Tree, v: Tree, *rest: Any) -> Tree:
    """A gradient of a gradient: inside transforms, or if an outer gradient flows through the product."""
    vectors = _leaves_like(params, v)

    def along(p: Tree) -> Tensor:
        gradient = grad(lambda q: _check_scalar("hvp", function(q, *rest)))(p)
        return tree.inner(gradient, vectors)

    with second_derivatives("curvature"):
        return grad(along)(params)


def _ggnvp_by_func(outputs: Callable, loss: Callable, params: Tree, v: Tree, *rest: Any) -> Tree:
    """The same product by two transposed products of torch.func."""
    values, spec = tree.flatten(params)
    structures: list = []

    def flat(leaves: list[Tensor]) -> list[Tensor]:
        z, structure = tree.flatten(outputs(tree.unflatten(spec, leaves), *rest))
        structures.append(structure)
        return z

    def head(z: list[Tensor]) -> Tensor:
        return _check_scalar("ggnvp", loss(tree.unflatten(structures[0], z), *rest))

    with second_derivatives("curvature"):
        z, pull = torch.func.vjp(flat, values)[:2]
        zeros = [torch.zeros_like(x) for x in z]
        (along,) = torch.func.vjp(lambda u: pull(u)[0], zeros)[1](_leaves_like(params, v))
        curved = torch.func.grad(lambda y: tree.inner(torch.func.grad(head)(y), along))(z)
        return tree.unflatten(spec, pull(curved)[0])


def _vjp(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor], **options: bool
) -> list[Tensor]:
    """Cotangents of the inputs, 0 where no output depends on an input."""
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    outputs, cotangents = ([*column] for column in zip(*pairs, strict=True))
    with second_derivatives("curvature"):
        found = torch.autograd.grad(
            outputs, inputs, cotangents, allow_unused=True, materialize_grads=True, **options
        )
    return list(found)


def _leaves_like(params: Tree, v: Tree) -> list[Tensor]:
    """The leaves of a vector, in the dtypes of the params."""
    if tree.structure(v) != tree.structure(params):
        raise ValueError(
            f"curvature: the vector must have the structure of the params ({', '.join(tree.paths(params))}), "
            f"got {', '.join(tree.paths(v))}"
        )
    pairs = list(zip(tree.leaves(params), tree.leaves(v), strict=True))
    for path, (p, x) in zip(tree.paths(params), pairs, strict=True):
        if x.shape != p.shape:
            raise ValueError(
                f"curvature: the vector must have the shapes of the params, {list(p.shape)}"
                f"{' at ' + repr(path) if path else ''}, got {list(x.shape)}; map several vectors with "
                "torch.func.vmap"
            )
    return [x.to(p.dtype) for p, x in pairs]


def _check_scalar(caller: str, value: Any) -> Tensor:
    """Refuses a function whose result is no number: the products would be those of its sum."""
    if isinstance(value, Tensor) and not value.ndim:
        return value
    got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"{caller}: expected a function that returns one number [], got {got}; of a stage's loss take the "
        "sum: lambda params: loss(params, batch, key)[0]"
    )
