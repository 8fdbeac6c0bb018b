"""NorMuon: Muon with rows of about equal length, so that no neuron learns much faster than others.

Shape letters: O outputs (neurons), I inputs of a matrix [O, I].

Li et al., "NorMuon: Making Muon more efficient and scalable", 2025.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import adamw
from pure.optim.axes import Dimensions, MuonDimensionNumbers, as_matrices, input_and_output, resolve
from pure.optim.base import Scalar, ScalarOrSchedule, chain, increment, safe_sqrt, upcast, zero_count
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import leafwise
from pure.optim.mask import Mask
from pure.optim.muon import muon_labels_fn
from pure.optim.newton_schulz import PRECONDITIONINGS, STANDARD, Coefficients, coefficients, orthogonalize
from pure.optim.partition import partition
from pure.optim.same_shapes import check_same_shapes
from pure.optim.scale import scale_by_learning_rate
from pure.optim.scale_by_shape import scale_by_shape
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class ScaleByNormuonState(NamedTuple):
    """The momentum of NorMuon, the mean squares of its updates' rows, and Newton-Schulz coefficients."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params
    nu: Tree  # running mean square of each neuron's row: [O, 1] for a matrix [O, I]
    ns_coeffs: Tensor  # [3] or [n, 3] float32  coefficients of the Newton-Schulz steps


def normuon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Coefficients | str = STANDARD,
    ns_steps: int = 5,
    beta: Scalar = 0.95,
    beta2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    preconditioning: str = "frobenius",
    adam_b1: Scalar = 0.9,
    adam_b2: Scalar = 0.95,
    adam_eps_root: Scalar = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Dimensions | None = None,
    consistent_rms: float | None = None,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds NorMuon for matrices and AdamW for everything else.

    An orthogonal matrix with more rows than columns may have rows of very different length. NorMuon divides
    each by its running root mean square, and then restores the norm of the whole.

    Args:
        learning_rate, ns_coeffs, ns_steps, beta, weight_decay, weight_decay_mask, mu_dtype, nesterov,
            preconditioning, adam_b1, adam_b2, adam_eps_root, adam_weight_decay, adam_learning_rate,
            muon_weight_dimension_numbers, ns_dtype: as in `muon`.
        beta2: decay of the mean squares of the rows, in [0, 1).
        eps: added to denominators, as in `muon`.
        consistent_rms: scale each update to exactly this root mean square: 0.2, the paper's, suits learning
            rates of AdamW. None keeps the norm of Muon's update, with the scaling of `scale_by_shape`.

    Returns:
        GradientTransformation with state PartitionState({"muon": MaskedState((ScaleByNormuonState, state of
        the scaling by shape, state of the weight decay, state of the learning rate)), "adam":
        MaskedState(state of adamw)}).

    Raises:
        ValueError: for arguments out of range, or an unknown preset or preconditioning.

    Example:
        Rows of length 3 and 1 get the length that both have on average.

        >>> opt = normuon(0.1, consistent_rms=1.0)
        >>> g = {"w": torch.tensor([[3.0], [1.0]])}
        >>> opt.update(g, opt.init(g), g)[0]["w"].flatten()
        tensor([-0.1000, -0.1000])

    Source: Li et al. 2025, algorithm 1 (consistent_rms=0.2), and the authors' code (consistent_rms=None).
    """
    check_not_negative("normuon", optional=True, learning_rate=learning_rate)
    dims = muon_weight_dimension_numbers
    matrix_dims = MuonDimensionNumbers() if dims is None else dims
    for_matrices = chain(
        scale_by_normuon(
            ns_coeffs,
            ns_steps,
            beta,
            beta2,
            eps,
            mu_dtype,
            nesterov=nesterov,
            preconditioning=preconditioning,
            weight_dimension_numbers=matrix_dims,
            consistent_rms=consistent_rms,
            ns_dtype=ns_dtype,
        ),
        *([scale_by_shape(matrix_dims)] if consistent_rms is None else []),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    for_others = adamw(
        learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1,
        adam_b2,
        eps,
        adam_eps_root,
        mu_dtype,
        adam_weight_decay,
    )
    return partition({"muon": for_matrices, "adam": for_others}, muon_labels_fn(dims))


def scale_by_normuon(
    ns_coeffs: Coefficients | str = STANDARD,
    ns_steps: int = 5,
    beta: Scalar = 0.95,
    beta2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Dimensions | None = None,
    consistent_rms: float | None = None,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Binds the arguments of `normuon_update`, for a tree of matrices only.

    Args:
        ns_coeffs, ns_steps, beta, beta2, eps, mu_dtype, nesterov, preconditioning, consistent_rms, ns_dtype:
            as in `normuon`; with consistent_rms=None the updates keep the norm of the orthogonal matrix.
        weight_dimension_numbers: as `muon_weight_dimension_numbers` there.

    Returns:
        GradientTransformation with state ScaleByNormuonState; updates are not negated.

    Raises:
        ValueError: for beta or beta2 outside [0, 1), ns_steps < 1, more steps than coefficients, a negative
            number, an unknown preset or preconditioning.
    """
    check_fraction("scale_by_normuon", beta=beta, beta2=beta2)
    check_not_negative("scale_by_normuon", optional=True, eps=eps, consistent_rms=consistent_rms)
    check_dtype("scale_by_normuon", mu_dtype=mu_dtype, ns_dtype=ns_dtype)
    if preconditioning not in PRECONDITIONINGS:
        raise ValueError(
            f"normuon: preconditioning must be one of {', '.join(PRECONDITIONINGS)}, got {preconditioning!r}"
        )
    dims = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    ns_coeffs = coefficients(ns_coeffs, ns_steps)
    return GradientTransformation(
        partial(normuon_init, ns_coeffs=ns_coeffs, mu_dtype=mu_dtype, dimensions=dims),
        leafwise(
            partial(
                normuon_update,
                ns_steps=ns_steps,
                beta=beta,
                beta2=beta2,
                eps=eps,
                nesterov=nesterov,
                preconditioning=preconditioning,
                dimensions=dims,
                consistent_rms=consistent_rms,
                ns_dtype=ns_dtype,
            )
        ),
    )


def normuon_init(
    params: Tree, *, ns_coeffs: Coefficients, mu_dtype: torch.dtype | None, dimensions: Dimensions
) -> ScaleByNormuonState:
    """Initialises momentum and mean squares with zeros, and stores the coefficients."""
    count = zero_count(params)
    values, spec = tree.flatten(params)
    rows = [
        x.new_zeros([1 if axis in input_and_output(x, dims)[0] else n for axis, n in enumerate(x.shape)])
        for x, dims in zip(values, resolve(dimensions, params), strict=True)
    ]
    return ScaleByNormuonState(
        count=count,
        mu=tree.zeros_like(params, dtype=mu_dtype),
        nu=tree.unflatten(spec, rows),
        ns_coeffs=torch.tensor(ns_coeffs, dtype=torch.float32, device=count.device),
    )


def normuon_update(
    updates: Tree,
    state: ScaleByNormuonState,
    params: Tree | None = None,
    *,
    ns_steps: int,
    beta: Scalar,
    beta2: Scalar,
    eps: Scalar,
    nesterov: bool,
    preconditioning: str,
    dimensions: Dimensions,
    consistent_rms: float | None,
    ns_dtype: torch.dtype | None,
    **extra: Any,
) -> tuple[Tree, ScaleByNormuonState]:
    """Orthogonalises the momentum of each matrix, and divides each row by its running root mean square.

        mu ← (1 - beta) g + beta mu;   M = mu,  or with nesterov  (1 - beta) g + beta mu
        U  = orthogonalize(M)
        nu ← (1 - beta2) mean of U² over the inputs + beta2 nu
        N  = U / (√nu + eps)
        update = N ‖U‖ / (‖N‖ + eps),  or with consistent_rms  N consistent_rms √(O I) / (‖N‖ + eps)

    Args:
        updates: tree of gradients g; every leaf has an input and an output axis.
        state: ScaleByNormuonState.
        params, extra: not used.
        ns_steps, beta, beta2, eps, nesterov, preconditioning, consistent_rms, ns_dtype: as in `normuon`.
        dimensions: as `muon_weight_dimension_numbers` in `normuon`.

    Returns:
        (updates, state); updates are not negated.

    Edge cases: a matrix whose gradients were always 0 stays. Neither mean is corrected for its start at 0, as
    the factor cancels in the norms.

    Steps:
        1. Momentum.
        2. Orthogonalise it.
        3. Divide the rows, and restore the norm.

    Source: Li et al. 2025, algorithm 1; the momentum is that of the authors' code.
    """
    del params, extra
    check_same_shapes(updates, state.mu)

    def leaf(g: Tensor, m: Tensor, v: Tensor, numbers: MuonDimensionNumbers | None) -> tuple[Tensor, ...]:
        # 1. Momentum.
        x = upcast(g)
        mu = (1 - beta) * x + beta * upcast(m)
        matrices, restore_axes = as_matrices((1 - beta) * x + beta * mu if nesterov else mu, numbers)
        # 2. Orthogonalise.
        u = restore_axes(orthogonalize(matrices, state.ns_coeffs, ns_steps, eps, preconditioning, ns_dtype))
        # 3. Rows.
        inputs, outputs = input_and_output(u, numbers)
        nu = (1 - beta2) * u.square().mean(inputs, keepdim=True) + beta2 * upcast(v)
        rows = u / (safe_sqrt(nu) + eps)
        wanted = _norm(u, inputs + outputs)
        if consistent_rms is not None:
            size = g.numel() // wanted.numel()
            wanted = torch.full_like(wanted, consistent_rms * size**0.5)
        step = rows * (wanted / (_norm(rows, inputs + outputs) + eps))
        return step.to(torch.promote_types(g.dtype, m.dtype)), mu.to(m.dtype), nu.to(v.dtype)

    values, spec = tree.flatten(updates)
    leaves = (values, tree.leaves(state.mu), tree.leaves(state.nu), resolve(dimensions, updates))
    results = [leaf(*row) for row in zip(*leaves, strict=True)]
    steps, mu, nu = (tree.unflatten(spec, [result[i] for result in results]) for i in range(3))
    return steps, ScaleByNormuonState(increment(state.count), mu, nu, state.ns_coeffs)


def _norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Computes the norm over some axes, which stay with length 1; its derivative at 0 is 0."""
    return safe_sqrt(x.square().sum(axes, keepdim=True))
