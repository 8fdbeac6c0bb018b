"""Eigenvalues and solutions from products alone: Lanczos' method and conjugate gradients.

A symmetric matrix A is given as a function v ↦ A v of trees, such as
`pure.transform.curvature.hessian_product(loss, params)`.

Shape letters: N numbers in a vector, K steps.

Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem", 1950; Hestenes and Stiefel,
"Methods of Conjugate Gradients for Solving Linear Systems", 1952; Golub and Meurant, "Matrices, Moments and
Quadrature", 1994.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pure import random, tree
from pure.transform.modes import has_values
from pure.types import Tree

Product = Callable[[Tree], Tree]
"""v -> A v for a symmetric matrix A: trees of the same structure and shapes."""


class Lanczos(NamedTuple):
    """Approximate eigenvalues and eigenvectors of a symmetric matrix; `values[-1]` is the largest.

    Fields:
        values: [K] float, Ritz values, in ascending order.
        vectors: tree like the vectors with a leading axis [K]: the Ritz vectors, of norm 1.
        residuals: [K] float, ‖A x - θ x‖ of each pair, with rounding: an eigenvalue is at most that far from
            the Ritz value.
        weights: [K] float, sum 1: the spectral density seen from the start vector, Σ_i weights[i]
            δ(λ - values[i]). Averaged over start vectors it estimates the density of all eigenvalues.
    """

    values: Tensor
    vectors: Tree
    residuals: Tensor
    weights: Tensor


class Solved(NamedTuple):
    """Solution of (A + damping I) x = b.

    Fields:
        x: tree like b; NaN if `indefinite`.
        residual: [] float, ‖b - (A + damping I) x‖ / ‖b‖, computed anew from x; NaN if `indefinite`.
        steps: [] int32, products that the iteration used.
        indefinite: [] bool, a direction of curvature <= 0 was met, so that conjugate gradients do not apply.
    """

    x: Tree
    residual: Tensor
    steps: Tensor
    indefinite: Tensor


def lanczos(product: Product, key: Tensor, like: Tree, steps: int) -> Lanczos:
    """Computes approximate eigenvalues and eigenvectors, the outermost first to converge.

        A Q = Q T + β_K q_{K+1} e_Kᵀ,     T tridiagonal;     T = S diag(θ) Sᵀ,  Ritz vectors Q S

    Without rounding the columns of Q would be orthogonal by themselves. With it they soon are not, and copies
    of the same eigenvalue appear, so each new vector is made orthogonal to all before it, twice.

    Args:
        product: v -> A v, symmetric.
        key: [2] uint32, for the start vector.
        like: tree whose shapes and dtypes the vectors have, such as the params.
        steps: K, in [1, N]: products computed. 10 to 30 give the largest eigenvalue of a network's Hessian.

    Returns:
        Lanczos(values [K] ascending, vectors, residuals [K], weights [K]). 2 K vectors are in memory.

    Steps:
        1. A random start vector.
        2. Product; diagonal of T; orthogonalise; off-diagonal of T.
        3. Next vector; a new random one if the space is exhausted, so that all eigenvalues are found in N
           steps.
        4. Eigenvalues and eigenvectors of T.

    Edge cases: of an eigenvalue that occurs several times, one copy is found, unless the space is exhausted.

    Raises:
        ValueError: if steps is out of range; if the product is not finite or not symmetric (checked where
            numbers can be read).

    Example:
        >>> diagonal = torch.tensor([1.0, 2.0, 5.0])
        >>> found = lanczos(lambda v: diagonal * v, random.key(0), diagonal, 3)
        >>> [round(value, 4) for value in found.values.tolist()]
        [1.0, 2.0, 5.0]

    Source: Lanczos 1950; Golub and Meurant 1994, section 3, for the weights.
    """
    size = tree.count(like)
    if not 1 <= steps <= size:
        raise ValueError(f"lanczos: expected steps in [1, {size}] (the numbers in a vector), got {steps}")
    # 1. Start.
    basis = [_random_direction(random.fold_in(key, 0), like, [])]
    eps = torch.finfo(basis[0].dtype).eps
    scale = basis[0].new_zeros(())
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for i in range(steps):
        # 2. Row i of T.
        w = ravel(product(unravel(basis[i], like))).to(basis[i].dtype)
        diagonal.append(basis[i] @ w)
        if i:
            _check_symmetric(basis[i - 1] @ w, off_diagonal[-1], scale)
        w = _orthogonalize(w, basis)
        beta = torch.linalg.vector_norm(w)
        scale = torch.maximum(scale, diagonal[-1].abs() + beta)
        exhausted = beta <= eps * size**0.5 * scale
        off_diagonal.append(torch.where(exhausted, 0.0, beta))
        # 3. Next vector.
        if i + 1 < steps:
            basis.append(_next_vector(w, beta, exhausted, random.fold_in(key, i + 1), like, basis))
    # 4. Eigenvalues.
    between = torch.stack(off_diagonal)
    tridiagonal = torch.diag(torch.stack(diagonal))
    if steps > 1:
        tridiagonal = tridiagonal + torch.diag(between[:-1], 1) + torch.diag(between[:-1], -1)
    if has_values(tridiagonal) and not tridiagonal.isfinite().all():
        raise ValueError("lanczos: the product is not finite; check the params and the loss for NaN")
    values, rotation = torch.linalg.eigh(tridiagonal)
    vectors = rotation.T @ torch.stack(basis)
    rows = [unravel(row, like) for row in vectors.unbind(0)]
    residuals = between[-1] * rotation[-1].abs() + eps * values.abs().amax()
    return Lanczos(values, tree.stack(rows), residuals, rotation[0].square())


def cg(
    product: Product, b: Tree, *, damping: float | Tensor = 0.0, steps: int = 100, tol: float = 1e-5
) -> Solved:
    """Solves (A + damping I) x = b for a positive definite matrix, by conjugate gradients.

    In exact arithmetic it ends after as many steps as there are distinct eigenvalues; the error falls by the
    factor (√κ - 1)/(√κ + 1) a step, κ the ratio of the largest eigenvalue to the smallest. Damping lowers κ.

    Args:
        product: v -> A v, symmetric.
        b: the right-hand side, a tree.
        damping: added to the diagonal, >= 0; a number or [].
        steps: most products, >= 1.
        tol: end when ‖b - (A + damping I) x‖ <= tol ‖b‖, >= 0.

    Returns:
        Solved(x, residual, steps, indefinite). One more product than `steps` computes the residual. Look at
        it: after the last step x may not be the solution yet.

    Steps:
        1. x = 0, residual and direction b, divided by its largest number, as the square of a small gradient
           may be 0 in its precision.
        2. Curvature of the direction. If it is not above rounding (eps times the largest so far), the matrix
           is not positive definite.
        3. Step along the direction, new residual, next direction.
        4. True residual; NaN if indefinite.

    Edge cases: b = 0 has the solution 0. Under vmap each problem stops changing when it is solved, and all
    steps are computed. An indefinite matrix whose negative directions b does not reach is solved.

    Raises:
        ValueError: if damping, steps or tol is out of range.

    Example:
        >>> diagonal = torch.tensor([1.0, 4.0])
        >>> cg(lambda v: diagonal * v, torch.tensor([3.0, 8.0])).x
        tensor([3.0000, 2.0000])
        >>> cg(lambda v: -diagonal * v, torch.tensor([3.0, 8.0])).indefinite
        tensor(True)

    Source: Hestenes and Stiefel 1952, section 3.
    """
    _check_cg(damping, steps, tol)
    # 1. Start.
    right = ravel(b)
    size = _largest(right)
    right = right / size
    eps = torch.finfo(right.dtype).eps

    def multiply(v: Tensor) -> Tensor:
        return ravel(product(unravel(v, b))).to(v.dtype) + damping * v

    x, residual, direction = torch.zeros_like(right), right, right
    square = goal = right @ right
    goal = goal * tol**2
    largest, indefinite = torch.zeros_like(square), square < 0
    done = square <= goal
    count = torch.zeros_like(square, dtype=torch.int32)
    for _ in range(steps):
        if has_values(done) and (done | indefinite):
            break
        # 2. Curvature.
        image = multiply(direction)
        curvature = direction @ image
        rayleigh = curvature / _not_zero(direction @ direction)
        active = ~(done | indefinite)
        positive = rayleigh > eps * largest
        count = count + active.to(count.dtype)
        indefinite = indefinite | (active & ~positive)
        active = active & positive
        largest = torch.maximum(largest, torch.where(active, rayleigh, 0.0))
        # 3. Step.
        length = torch.where(active, square / _not_zero(curvature), 0.0)
        x, residual = x + length * direction, residual - length * image
        new = residual @ residual
        direction = torch.where(active, residual + new / _not_zero(square) * direction, direction)
        square = torch.where(active, new, square)
        done = done | (square <= goal)
    # 4. Residual.
    error = torch.linalg.vector_norm(right - multiply(x)) / _not_zero(torch.linalg.vector_norm(right))
    nan = torch.where(indefinite, torch.nan, 0.0).to(right.dtype)
    return Solved(unravel(size * x + nan, b), error + nan, count, indefinite)


def ravel(vector: Tree) -> Tensor:
    """Joins the leaves of a tree into one vector [N], in float32, or float64 if a leaf is.

    Example:
        >>> ravel({"a": torch.ones(2, 1), "b": torch.tensor(3.0)})
        tensor([1., 1., 3.])
    """
    dtype = tree.shared_dtype(vector)
    return torch.cat([x.reshape(-1).to(dtype) for x in tree.leaves(vector)])


def unravel(vector: Tensor, like: Tree) -> Tree:
    """Inverts `ravel`: [N] -> a tree of the shapes and dtypes of `like`.

    Example:
        >>> unravel(torch.tensor([1.0, 1.0, 3.0]), {"a": torch.ones(1, 2), "b": torch.tensor(3.0)})
        {'a': tensor([[1., 1.]]), 'b': tensor(3.)}
    """
    values, spec = tree.flatten(like)
    parts = vector.split([x.numel() for x in values])
    return tree.unflatten(spec, [p.reshape(x.shape).to(x.dtype) for p, x in zip(parts, values, strict=True)])


def _random_direction(key: Tensor, like: Tree, basis: list[Tensor]) -> Tensor:
    """A random unit vector [N] orthogonal to the basis."""
    dtype, device = tree.shared_dtype(like), tree.leaves(like)[0].device
    w = random.normal(key, (tree.count(like),)).to(device=device, dtype=dtype)
    w = _orthogonalize(w, basis)
    return w / torch.linalg.vector_norm(w)


def _next_vector(
    w: Tensor, beta: Tensor, exhausted: Tensor, key: Tensor, like: Tree, basis: list[Tensor]
) -> Tensor:
    """w / β [N], or a random direction if w is rounding error; drawn only then where the number is seen."""
    if has_values(exhausted) and not exhausted:
        return w / beta
    unit = w / torch.where(exhausted, 1.0, beta)
    return torch.where(exhausted, _random_direction(key, like, basis), unit)


def _orthogonalize(w: Tensor, basis: list[Tensor]) -> Tensor:
    """Subtracts the parts of w [N] along the basis, twice: once leaves the rounding errors of large parts."""
    for q in (*basis, *basis):
        w = w - (q @ w) * q
    return w


def _check_symmetric(coefficient: Tensor, expected: Tensor, scale: Tensor) -> None:
    """Checks one entry above the diagonal of T against the one below it, where numbers can be read."""
    if has_values(coefficient) and (coefficient - expected).abs() > 0.01 * scale:
        raise ValueError(
            f"lanczos: the product is not symmetric ({coefficient:.4g} above the diagonal, {expected:.4g} "
            "below): expected the same matrix in every call (no dropout, no new batch), and no preconditioner"
        )


def _check_cg(damping: float | Tensor, steps: int, tol: float) -> None:
    """Checks the numbers of `cg`."""
    if isinstance(damping, float | int) and damping < 0:
        raise ValueError(f"cg: damping must be at least 0, got {damping}")
    if steps < 1:
        raise ValueError(f"cg: expected at least 1 step, got {steps}")
    if tol < 0:
        raise ValueError(f"cg: tol is relative to the norm of b and at least 0, such as 1e-5, got {tol}")


def _largest(x: Tensor) -> Tensor:
    """The largest absolute number of a vector, a constant for derivatives; 1 if it is 0."""
    return _not_zero(x.detach().abs().amax())


def _not_zero(x: Tensor) -> Tensor:
    """A divisor that is not 0: quotients in branches that are not taken stay finite."""
    return torch.where(x == 0, 1.0, x)
