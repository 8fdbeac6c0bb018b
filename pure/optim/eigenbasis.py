"""Eigenbases of the two sides of a matrix: where the gradients of Shampoo and SOAP are uncorrelated.

Shape letters: O outputs, I inputs of a matrix [..., O, I]; leading axes are a batch of matrices.

Gupta, Koren and Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", 2018; Vyas et al., "SOAP:
Improving and Stabilizing Shampoo using Adam", 2024, algorithm 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import Scalar
from pure.transform.apply_if import apply_if


class Sides(NamedTuple):
    """A square matrix for each side of a matrix [..., O, I], or None for a side that has none."""

    left: Tensor | None  # [..., O, O]
    right: Tensor | None  # [..., I, I]


def rotate(x: Tensor, basis: Sides) -> Tensor:
    """Computes Lᵀ x R: the coordinates of a matrix [..., O, I] in the bases L and R of its sides.

    Example:
        >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> rotate(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), Sides(swap, None))
        tensor([[3., 4.],
                [1., 2.]])
    """
    if basis.left is not None:
        x = basis.left.to(x.dtype).mT @ x
    return x if basis.right is None else x @ basis.right.to(x.dtype)


def rotate_back(x: Tensor, basis: Sides) -> Tensor:
    """Computes L x Rᵀ, the inverse of `rotate` for orthogonal bases.

    Example:
        >>> basis = Sides(torch.tensor([[0.6, -0.8], [0.8, 0.6]]), None)
        >>> rotate_back(rotate(torch.tensor([[1.0], [2.0]]), basis), basis).round(decimals=4).flatten()
        tensor([1., 2.])
    """
    if basis.left is not None:
        x = basis.left.to(x.dtype) @ x
    return x if basis.right is None else x @ basis.right.to(x.dtype).mT


def average_products(old: Sides, g: Tensor, beta: Scalar) -> Sides:
    """Averages g gᵀ and gᵀ g, for the sides that `old` has: (1 - beta) g gᵀ + beta old.

    Args:
        old: running means.
        g: the gradient, in float32 at least; a vector if `old` has no side.
        beta: decay.

    Returns:
        Sides, in the dtypes of `old`.

    Example:
        >>> average_products(Sides(torch.zeros(1, 1), None), torch.tensor([[1.0, 2.0]]), 0.5).left
        tensor([[2.5000]])
    """
    left = None if old.left is None else (1 - beta) * (g @ g.mT).to(old.left.dtype) + beta * old.left
    right = None if old.right is None else (1 - beta) * (g.mT @ g).to(old.right.dtype) + beta * old.right
    return Sides(left, right)


def next_bases(
    first: Tensor, due: Tensor, statistics: list[Sides], bases: list[Sides], squares: list[Tensor]
) -> tuple[list[Sides], list[Tensor]]:
    """Computes the bases after an update: eigenvectors at first, later by one power iteration when due.

        first: S = Q Λ Qᵀ;  due: Q' R = S Q  (R upper triangular)

    The columns of a new basis are ordered by falling eigenvalue, and the squares with them, so that each
    keeps its coordinate while two eigenvalues cross.

    Args:
        first: [] bool; take the eigenvectors of the statistics.
        due: [] bool; replace each basis Q of the statistic S by the orthogonal factor of S Q.
        statistics: symmetric matrices of each leaf, positive semidefinite.
        bases: of each leaf, with the sides of its statistics.
        squares: of each leaf, [..., O, I] in the rotated coordinates.

    Returns:
        (bases, squares).

    Edge cases: numbers of the statistics that are not finite count as 0; no eigenvectors exist for them. The
    bases carry no derivative: that of eigenvectors does not exist where eigenvalues are equal.

    Source: Vyas et al. 2024, algorithm 4, ordered as in the authors' code.
    """
    flat, spec = tree.flatten(bases)
    matrices = [torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in tree.detach(tree.leaves(statistics))]
    flat = list(apply_if(first, _eigenvectors, flat, *matrices))
    power = partial(_power_iteration, spec=spec)
    changed = apply_if(due, power, (*flat, *squares), *matrices)
    return tree.unflatten(spec, list(changed[: len(flat)])), list(changed[len(flat) :])


def _eigenvectors(bases: Sequence[Tensor], *matrices: Tensor) -> list[Tensor]:
    """The eigenvectors of each matrix [..., n, n] as columns, by falling eigenvalue."""
    del bases
    return [torch.linalg.eigh(x).eigenvectors.flip(-1) for x in matrices]


def _power_iteration(values: Sequence[Tensor], *matrices: Tensor, spec: Any) -> list[Tensor]:
    """Improves every basis and reorders the squares; `values` are the bases' leaves, then the squares."""
    bases = tree.unflatten(spec, list(values[: len(matrices)]))
    statistics = tree.unflatten(spec, list(matrices))
    new_bases: list[Tensor] = []
    new_squares: list[Tensor] = []
    for basis, statistic, square in zip(bases, statistics, values[len(matrices) :], strict=True):
        for axis, (q, s) in zip((-2, -1), zip(basis, statistic, strict=True), strict=True):
            if q is None:
                continue
            product = s @ q
            order = (q * product).sum(-2).argsort(-1, descending=True)
            square = square.take_along_dim(order.unsqueeze(-3 - axis), axis)
            new_bases.append(torch.linalg.qr(product.take_along_dim(order.unsqueeze(-2), -1)).Q)
        new_squares.append(square)
    return [*new_bases, *new_squares]
