"""SOAP: Adam in the slowly rotating eigenbasis of Shampoo's preconditioner.

Shape letters: O outputs, I inputs of a matrix [..., O, I]; leading axes are a batch of matrices.

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024; Gupta, Koren and Singer, "Shampoo:
Preconditioned Stochastic Tensor Optimization", 2018.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.number import is_int
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    increment,
    safe_sqrt,
    store_once,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.eigenbasis import Sides, average_products, next_bases, rotate, rotate_back
from pure.optim.leafwise import leafwise
from pure.optim.mask import Mask, MaskedNode
from pure.optim.same_shapes import check_same_shapes
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class ScaleBySoapState(NamedTuple):
    """Adam's moments, Shampoo's two statistics of each matrix, and the eigenbasis of each.

    The last four are trees like the params; `MaskedNode()` stands where a side has no basis.
    """

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params, not rotated
    nu: Tree  # running mean of the squares of the rotated gradient, like the params
    left: Tree  # [..., O, O] float32  running mean of g gᵀ
    right: Tree  # [..., I, I] float32  running mean of gᵀ g
    left_basis: Tree  # [..., O, O] float32  orthogonal
    right_basis: Tree  # [..., I, I] float32  orthogonal


def soap(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    shampoo_beta: Scalar | None = None,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.01,
    mask: Mask | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds SOAP: AdamW whose moments of squares are kept in the eigenbasis of the gradients.

    Adam is blind to correlated coordinates. In the basis where the gradients of a matrix are uncorrelated,
    dividing each coordinate by its own root mean square does what Shampoo's matrix roots do, and the basis
    may be some steps old.

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule. 3e-3 is the authors'.
        b1: decay of the mean of gradients, in [0, 1).
        b2: decay of the mean of squares, in [0, 1).
        shampoo_beta: decay of both statistics, in [0, 1); None takes b2.
        eps: added to the denominator. A direction in which all gradients are 0 except for rounding errors
            moves by their sign, unless eps is larger than they are; then eager and compiled updates agree.
        weight_decay, mask: as in `adamw`.
        precondition_frequency: updates between two changes of the bases, >= 1.
        max_precond_dim: a longer side of a matrix (a vocabulary) keeps the identity as its basis.
        mu_dtype: storage of mu; None stores it like the params.

    Returns:
        GradientTransformation with state (ScaleBySoapState, state of the weight decay, state of the learning
        rate).

    Raises:
        ValueError: for arguments out of range; at the update, if params are missing.

    Edge cases: the first update only chooses the bases: apart from the weight decay nothing moves. Where
    first gradients have a low rank, rounding chooses among the eigenvectors of eigenvalue 0: the same run,
    compiled and eager, or with another number of threads, may then differ as two seeds do.

    Example:
        Two equal gradients along (3, 4): the second update is Adam's step, 1, along that direction.

        >>> opt = soap(0.1, weight_decay=0.0)
        >>> params = torch.zeros(2, 1)
        >>> state = opt.update(torch.tensor([[3.0], [4.0]]), opt.init(params), params)[1]
        >>> opt.update(torch.tensor([[3.0], [4.0]]), state, params)[0].flatten()
        tensor([-0.0600, -0.0800])

    Source: Vyas et al. 2024, algorithms 3 and 4. Differs from the authors' code: axes before the last two are
    a batch of matrices; the first update decays weights.
    """
    check_not_negative("soap", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_soap(b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_soap(
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    shampoo_beta: Scalar | None = None,
    eps: Scalar = 1e-8,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds SOAP's rescaling of gradients, without the learning rate; `soap_update` has the formulas.

    Args:
        b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, mu_dtype: as in `soap`.

    Returns:
        GradientTransformation with state ScaleBySoapState; updates are not negated.

    Raises:
        ValueError: for a decay outside [0, 1), a negative eps, or integers below 1.
    """
    shampoo_beta = b2 if shampoo_beta is None else shampoo_beta
    check_fraction("scale_by_soap", b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    check_not_negative("scale_by_soap", eps=eps)
    check_dtype("scale_by_soap", mu_dtype=mu_dtype)
    for name, value in (
        ("precondition_frequency", precondition_frequency),
        ("max_precond_dim", max_precond_dim),
    ):
        if not is_int(value) or value < 1:
            raise ValueError(f"scale_by_soap: {name} must be an int >= 1, got {value!r}")
    update = partial(
        soap_update, b1=b1, b2=b2, shampoo_beta=shampoo_beta, eps=eps, frequency=precondition_frequency
    )
    return GradientTransformation(
        partial(soap_init, max_precond_dim=max_precond_dim, mu_dtype=mu_dtype), leafwise(update)
    )


def soap_init(params: Tree, *, max_precond_dim: int, mu_dtype: torch.dtype | None = None) -> ScaleBySoapState:
    """Initialises moments, statistics and bases with zeros; the first update finds the bases."""

    def side(axis: int) -> Tree:
        def square(p: Tensor) -> Any:
            if p.ndim < 2 or p.shape[axis] > max_precond_dim:
                return MaskedNode()
            dtype = torch.promote_types(p.dtype, torch.float32)
            return p.new_zeros((*p.shape[:-2], p.shape[axis], p.shape[axis]), dtype=dtype)

        return tree.map(square, params)

    return ScaleBySoapState(
        count=zero_count(params),
        mu=tree.zeros_like(params, dtype=mu_dtype),
        nu=tree.zeros_like(params),
        left=side(-2),
        right=side(-1),
        left_basis=side(-2),
        right_basis=side(-1),
    )


def soap_update(
    updates: Tree,
    state: ScaleBySoapState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    shampoo_beta: Scalar,
    eps: Scalar,
    frequency: int,
    **extra: Any,
) -> tuple[Tree, ScaleBySoapState]:
    """Divides the rotated mean gradient by the root of the mean square, and rotates it back.

        mu ← (1 - b1) g + b1 mu
        nu ← (1 - b2) (Lᵀ g R)² + b2 nu                     L, R: left and right basis
        update = c L (Lᵀ mu R / (√nu + eps)) Rᵀ,            c = √(1 - b2^s) / (1 - b1^s),  s = t - 1
        left ← (1 - shampoo_beta) g gᵀ + shampoo_beta left;  right ← the same of gᵀ g
        every `frequency` updates:  L ← Q of the QR decomposition of left L; the same for R

    The first update only fills the statistics and takes their eigenvectors as bases; its step is 0.

    Args:
        updates: tree of gradients g.
        state: ScaleBySoapState after t - 1 updates.
        params, extra: not used.
        b1, b2, shampoo_beta, eps: as in `soap`.
        frequency: `precondition_frequency` of `soap`.

    Returns:
        (updates, state); updates are not negated.

    Edge cases: vectors and scalars have no basis: Adam, a step later. Derivatives take the bases as
    constants, as eigenvectors of equal eigenvalues, such as those of a gradient of low rank, have none. The
    derivative of one update by its gradient is exact: the new bases serve the next one. A program lowered to
    JAX computes the new bases at every update, and chooses.

    Steps:
        1. Count and correction.
        2. Moments and the step of each leaf, in the bases of the state.
        3. Statistics.
        4. Bases: eigenvectors at the first update; then one power iteration, at every `frequency`-th.

    Source: Vyas et al. 2024, algorithm 3; order of operations as in the authors' code.
    """
    del params, extra
    check_same_shapes(updates, state.mu)
    # 1. Count and correction.
    count, dtype = increment(state.count), tree.shared_dtype(updates)
    first, taken = count == 1, (count - 1).clamp(min=1)
    correction = store_once(bias_correction(b2, taken, dtype).sqrt() / bias_correction(b1, taken, dtype))
    names, (values, spec) = tree.paths(updates), tree.flatten(updates)
    bases = _both_sides(names, state.left_basis, state.right_basis)

    # 2. Moments.
    def leaf(g: Tensor, m: Tensor, v: Tensor, basis: Sides) -> tuple[Tensor, Tensor, Tensor]:
        x = upcast(g)
        mu = torch.where(first, upcast(m), (1 - b1) * x + b1 * upcast(m))
        nu = torch.where(first, upcast(v), (1 - b2) * rotate(x, basis).square() + b2 * upcast(v))
        step = rotate_back(rotate(mu, basis) / (safe_sqrt(nu) + eps), basis)
        step = torch.where(first, 0.0 * x, correction.to(x.dtype) * step)
        return step.to(torch.promote_types(g.dtype, m.dtype)), mu.to(m.dtype), nu.to(v.dtype)

    rows = zip(values, tree.leaves(state.mu), tree.leaves(state.nu), bases, strict=True)
    results = [leaf(*row) for row in rows]
    steps, mu, nu = ([result[i] for result in results] for i in range(3))
    # 3. Statistics.
    statistics = [
        average_products(old, upcast(g), shampoo_beta)
        for g, old in zip(values, _both_sides(names, state.left, state.right), strict=True)
    ]
    # 4. Bases.
    due = ((count - 1) % frequency == 0) & ~first
    bases, nu = next_bases(first, due, statistics, bases, nu)
    pairs = [(state.left, statistics), (state.right, statistics)]
    pairs += [(state.left_basis, bases), (state.right_basis, bases)]
    matrices = [_replace_leaves(old, [sides[i % 2] for sides in new]) for i, (old, new) in enumerate(pairs)]
    moments = [tree.unflatten(spec, x) for x in (mu, nu)]
    return tree.unflatten(spec, steps), ScaleBySoapState(count, *moments, *matrices)


def _both_sides(names: list[str], left: Tree, right: Tree) -> list[Sides]:
    """Pairs the matrices of two trees, in which leaves may be missing, for the leaves `names`."""
    by_path = [dict(zip(tree.paths(t), tree.leaves(t), strict=True)) for t in (left, right)]
    return [Sides(*(side.get(name) for side in by_path)) for name in names]


def _replace_leaves(old: Tree, new: list[Tensor | None]) -> Tree:
    """A tree like `old`, with the new matrices; None stands for a parameter that has none."""
    return tree.unflatten(tree.structure(old), [x for x in new if x is not None])
