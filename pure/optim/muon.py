"""Muon: orthogonalised momentum, so that all directions of a weight matrix move equally.

Shape letters: O outputs, I inputs of a matrix [O, I]; N matrices in a batch.

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024; Bernstein and Newhouse, "Old
Optimizer, New Norm", 2024; Liu et al., "Muon is Scalable for LLM Training", 2025 (consistent_rms, weight
decay).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import adamw
from pure.optim.axes import Dimensions, MuonDimensionNumbers, as_matrices, resolve
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    chain,
    corrected_mean,
    increment,
    mean_correction,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import is_leafwise_function, leafwise
from pure.optim.mask import Mask
from pure.optim.newton_schulz import PRECONDITIONINGS, STANDARD, Coefficients, coefficients, orthogonalize
from pure.optim.partition import partition
from pure.optim.same_shapes import check_same_shapes
from pure.optim.scale import scale_by_learning_rate
from pure.optim.scale_by_shape import scale_by_shape
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class MuonState(NamedTuple):
    """The momentum of Muon, and its coefficients."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params
    ns_coeffs: Tensor  # [3] or [n, 3] float32  coefficients of the Newton-Schulz steps


def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Coefficients | str = STANDARD,
    ns_steps: int = 5,
    beta: Scalar = 0.95,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Scalar = 0.9,
    adam_b2: Scalar = 0.999,
    adam_eps_root: Scalar = 0.0,
    adam_weight_decay: ScalarOrSchedule = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Dimensions | None = None,
    consistent_rms: float | None = None,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds Muon for matrices and AdamW for everything else.

    The gradients of a matrix mostly lie in a few directions; equal steps in all directions learn the rare
    ones too.

    Args:
        learning_rate: >= 0; about 0.02 with the default scaling, that of AdamW with consistent_rms=0.2.
        ns_coeffs: Newton-Schulz coefficients: (a, b, c) for all steps, a tuple with one (a, b, c) per step,
            or "standard" or "dion".
        ns_steps: number of steps, >= 1; of coefficients per step, the last `ns_steps` are used.
        beta: decay of the momentum, in [0, 1).
        eps: added to denominators, Muon's and Adam's.
        weight_decay, weight_decay_mask: decoupled decay of the matrices, as in `adamw`.
        mu_dtype: dtype of the stored momentum, Adam's too; None: that of the params.
        nesterov: use Nesterov momentum, in Adam too.
        adaptive: multiply by the dual norm of the momentum (then large gradients make large steps).
        preconditioning: scaling that first brings the singular values below 1: "frobenius", "spectral",
            "aol" or "schatten".
        adam_b1, adam_b2, adam_eps_root, adam_weight_decay: arguments of `adamw` for the other leaves.
        adam_learning_rate: learning rate of `adamw`; None takes `learning_rate`.
        muon_weight_dimension_numbers: the leaves for Muon and their axes, as a tree like the params (or a
            prefix) with MuonDimensionNumbers for Muon's leaves and None for Adam's, or a function from params
            to one, such as `hidden_matrices`. None: all leaves of two axes, embeddings too.
        consistent_rms: scale each update to this root mean square (0.2 suits learning rates of AdamW); None
            takes the default scaling of `scale_by_shape`.
        ns_dtype: dtype of the Newton-Schulz products, such as torch.bfloat16; None: that of the gradients,
            as in optax.

    Returns:
        GradientTransformation with state PartitionState({"muon": MaskedState((MuonState, EmptyState(), state
        of the weight decay, state of the learning rate)), "adam": MaskedState(state of adamw)}).

    Raises:
        ValueError: for arguments out of range, or an unknown preset or preconditioning.

    Example:
        A diagonal gradient, 3 and 1: both singular values become nearly 1.

        >>> opt = muon(0.1, nesterov=False)
        >>> g = {"w": torch.diag(torch.tensor([3.0, 1.0]))}
        >>> updates, _ = opt.update(g, opt.init(g), g)
        >>> [round(x, 3) for x in updates["w"].diag().tolist()]
        [-0.075, -0.113]

    Source: Jordan 2024. Differs from optax.contrib.muon: the default axes are [O, I] (see
    MuonDimensionNumbers).
    """
    check_not_negative("muon", optional=True, learning_rate=learning_rate)
    dims = muon_weight_dimension_numbers
    matrix_dims = MuonDimensionNumbers() if dims is None else dims
    for_matrices = chain(
        scale_by_muon(
            ns_coeffs,
            ns_steps,
            beta,
            eps,
            mu_dtype,
            nesterov=nesterov,
            adaptive=adaptive,
            preconditioning=preconditioning,
            weight_dimension_numbers=matrix_dims,
            ns_dtype=ns_dtype,
        ),
        scale_by_shape(matrix_dims, consistent_rms),
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
        nesterov=nesterov,
    )
    return partition({"muon": for_matrices, "adam": for_others}, muon_labels_fn(dims))


def muon_labels_fn(dimensions: Dimensions | None) -> Callable[[Tree], Tree]:
    """Binds `dimensions` to `muon_labels`; leafwise, unless they are a tree or an unmarked function."""
    labels = partial(muon_labels, dimensions=dimensions)
    if dimensions is None or isinstance(dimensions, MuonDimensionNumbers) or is_leafwise_function(dimensions):
        return leafwise(labels)
    return labels


def muon_labels(params: Tree, *, dimensions: Dimensions | None) -> Tree:
    """Labels each leaf "muon" or "adam", by its dimension numbers; if None, leaves of two axes are "muon"."""
    values, spec = tree.flatten(params)
    if dimensions is None:
        return tree.unflatten(spec, ["muon" if x.ndim == 2 else "adam" for x in values])
    return tree.unflatten(spec, ["adam" if d is None else "muon" for d in resolve(dimensions, params)])


def scale_by_muon(
    ns_coeffs: Coefficients | str = STANDARD,
    ns_steps: int = 5,
    beta: Scalar = 0.95,
    eps: Scalar = 1e-8,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Dimensions | None = None,
    ns_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Binds the arguments of `muon_update`, for a tree of matrices only.

    Args:
        ns_coeffs, ns_steps, beta, eps, mu_dtype, nesterov, adaptive, preconditioning, ns_dtype: as in `muon`.
        weight_dimension_numbers: as `muon_weight_dimension_numbers` there.

    Returns:
        GradientTransformation with state MuonState; updates are not negated: chain `scale_by_learning_rate`.

    Raises:
        ValueError: for beta outside [0, 1), ns_steps < 1, more steps than coefficients, an unknown preset or
            preconditioning.
    """
    check_fraction("scale_by_muon", beta=beta)
    check_not_negative("scale_by_muon", eps=eps)
    check_dtype("scale_by_muon", mu_dtype=mu_dtype)
    check_dtype("scale_by_muon", ns_dtype=ns_dtype)
    if preconditioning not in PRECONDITIONINGS:
        raise ValueError(
            f"muon: preconditioning must be one of {', '.join(PRECONDITIONINGS)}, got {preconditioning!r}"
        )
    if weight_dimension_numbers is None:
        weight_dimension_numbers = MuonDimensionNumbers()
    return GradientTransformation(
        partial(muon_init, ns_coeffs=coefficients(ns_coeffs, ns_steps), mu_dtype=mu_dtype),
        leafwise(
            partial(
                muon_update,
                ns_steps=ns_steps,
                beta=beta,
                eps=eps,
                nesterov=nesterov,
                adaptive=adaptive,
                preconditioning=preconditioning,
                dimensions=weight_dimension_numbers,
                ns_dtype=ns_dtype,
            )
        ),
    )


def muon_init(params: Tree, *, ns_coeffs: Coefficients, mu_dtype: torch.dtype | None = None) -> MuonState:
    """Initialises the momentum with zeros, and stores the coefficients."""
    count = zero_count(params)
    return MuonState(
        count=count,
        mu=tree.zeros_like(params, dtype=mu_dtype),
        ns_coeffs=torch.tensor(ns_coeffs, dtype=torch.float32, device=count.device),
    )


def muon_update(
    updates: Tree,
    state: MuonState,
    params: Tree | None = None,
    *,
    ns_steps: int,
    beta: Scalar,
    eps: Scalar,
    nesterov: bool,
    adaptive: bool,
    preconditioning: str,
    dimensions: Dimensions,
    ns_dtype: torch.dtype | None = None,
    **extra: Any,
) -> tuple[Tree, MuonState]:
    """Replaces the momentum M = U S Vᵀ of each matrix by about U Vᵀ.

        mu ← (1 - beta) g + beta mu
        M  = mu / (1 - beta^t),  or with nesterov  beta mu / (1 - beta^(t+1)) + (1 - beta) g / (1 - beta^t)
        update = orthogonalize(M),  times ⟨M, update⟩ if adaptive

    Args:
        updates: tree of gradients g; every leaf has an input and an output axis.
        state: MuonState after t - 1 updates.
        params, extra: not used.
        ns_steps, beta, eps, nesterov, adaptive, preconditioning, ns_dtype: as in `muon`.
        dimensions: as `muon_weight_dimension_numbers` in `muon`.

    Returns:
        (updates, state).

    Steps:
        1. Count, and the correction that all leaves share.
        2. The bias-corrected momentum of each leaf.
        3. Orthogonalise it.

    Source: Jordan 2024; the bias corrections are optax's.
    """
    del params, extra
    check_same_shapes(updates, state.mu)
    # 1. Count and correction.
    count = increment(state.count)
    correction = mean_correction(beta, count, tree.shared_dtype(updates), nesterov)

    def leaf(g: Tensor, m: Tensor, numbers: MuonDimensionNumbers | None) -> tuple[Tensor, Tensor]:
        # 2. Momentum.
        x = upcast(g)
        mu = (1 - beta) * x + beta * upcast(m)
        mean = corrected_mean(x, mu, beta, correction)
        # 3. Orthogonalise.
        matrices, restore_axes = as_matrices(mean, numbers)
        orthogonal = orthogonalize(matrices, state.ns_coeffs, ns_steps, eps, preconditioning, ns_dtype)
        step = restore_axes(orthogonal)
        if adaptive:
            step = (mean * step).sum() * step
        return step.to(torch.promote_types(g.dtype, m.dtype)), mu.to(m.dtype)

    values, spec = tree.flatten(updates)
    rows = zip(values, tree.leaves(state.mu), resolve(dimensions, updates), strict=True)
    pairs = [leaf(g, m, numbers) for g, m, numbers in rows]
    steps = tree.unflatten(spec, [step for step, _ in pairs])
    mu = tree.unflatten(spec, [new_mu for _, new_mu in pairs])
    return steps, MuonState(count=count, mu=mu, ns_coeffs=state.ns_coeffs)
