"""AMSGrad: Adam whose denominator never shrinks.

Shape letters: none; elementwise on each leaf.

Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", 2018, algorithm 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    increment,
    map_unzip,
    safe_sqrt,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.scale import scale_by_learning_rate
from pure.types import GradientTransformation, Tree


class ScaleByAmsgradState(NamedTuple):
    """Count of updates, both moments of Adam, and the largest second moment so far."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params
    nu: Tree  # running mean of its square, like the params
    nu_max: Tree  # largest corrected nu so far, like the params


def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformation:
    """Builds AMSGrad: Adam divided by the root of the largest mean square so far.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype: as in `adamw`.
        bias_correction_mu, bias_correction_nu: correct each mean for its start at zero.

    Returns:
        GradientTransformation with state (ScaleByAmsgradState, state of the learning rate).

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or a negative learning_rate or eps.

    Example:
        >>> opt = amsgrad(0.1)
        >>> opt.update(torch.tensor([-7.0]), opt.init(torch.tensor([2.0])))[0]
        tensor([0.1000])

    Source: Reddi et al. 2018, algorithm 2; the corrections are optax's. torch's `amsgrad=True` takes the
    maximum before the correction.
    """
    check_not_negative("amsgrad", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_amsgrad(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformation:
    """Builds AMSGrad's rescaling of gradients, without the learning rate.

    Args:
        b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu: as in `amsgrad`.

    Returns:
        GradientTransformation with state ScaleByAmsgradState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or a negative eps.
    """
    check_fraction("scale_by_amsgrad", b1=b1, b2=b2)
    check_not_negative("scale_by_amsgrad", eps=eps, eps_root=eps_root)
    check_dtype("scale_by_amsgrad", mu_dtype=mu_dtype)
    update = partial(
        amsgrad_update,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        bias_correction_mu=bias_correction_mu,
        bias_correction_nu=bias_correction_nu,
    )
    return GradientTransformation(partial(amsgrad_init, mu_dtype=mu_dtype), elementwise(update))


def amsgrad_init(params: Tree, *, mu_dtype: torch.dtype | None = None) -> ScaleByAmsgradState:
    """Initialises the moments and the maximum with zeros."""
    mu, nu, nu_max = tree.zeros_like(params, dtype=mu_dtype), tree.zeros_like(params), tree.zeros_like(params)
    return ScaleByAmsgradState(zero_count(params), mu, nu, nu_max)


def amsgrad_update(
    updates: Tree,
    state: ScaleByAmsgradState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    bias_correction_mu: bool,
    bias_correction_nu: bool,
    **extra: Any,
) -> tuple[Tree, ScaleByAmsgradState]:
    """Divides the mean gradient by the root of the largest mean square so far.

        mu ← (1 - b1) g + b1 mu;   nu ← (1 - b2) g² + b2 nu;   both corrected by 1 - b^t
        nu_max ← max(nu_max, nu_hat);   update = mu_hat / (√(nu_max + eps_root) + eps)

    Args:
        updates: tree of gradients g.
        state: ScaleByAmsgradState after t - 1 updates.
        params, extra: not used.
        b1, b2, eps, eps_root, bias_correction_mu, bias_correction_nu: as in `amsgrad`.

    Returns:
        (updates, state); updates are not negated.

    Source: Reddi et al. 2018, algorithm 2.
    """
    del params, extra
    count, dtype = increment(state.count), tree.shared_dtype(updates)
    mu_correction = bias_correction(b1, count, dtype) if bias_correction_mu else None
    nu_correction = bias_correction(b2, count, dtype) if bias_correction_nu else None

    def corrected(mean: Tensor, correction: Tensor | None) -> Tensor:
        return mean if correction is None else mean / correction.to(mean.dtype)

    def leaf(g: Tensor, m: Tensor, v: Tensor, largest: Tensor) -> tuple[Tensor, ...]:
        x = upcast(g)
        mu = (1 - b1) * x + b1 * upcast(m)
        nu = (1 - b2) * x.square() + b2 * upcast(v)
        nu_max = torch.maximum(upcast(largest), corrected(nu, nu_correction))
        step = corrected(mu, mu_correction) / (safe_sqrt(nu_max + eps_root) + eps)
        out_dtype = torch.promote_types(torch.promote_types(g.dtype, m.dtype), v.dtype)
        return step.to(out_dtype), mu.to(m.dtype), nu.to(v.dtype), nu_max.to(largest.dtype)

    steps, mu, nu, nu_max = map_unzip(4, leaf, updates, state.mu, state.nu, state.nu_max)
    return steps, ScaleByAmsgradState(count, mu, nu, nu_max)
