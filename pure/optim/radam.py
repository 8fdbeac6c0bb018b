"""RAdam: Adam with a factor that rectifies the variance of its early steps, in place of a warm-up.

Shape letters: none; elementwise on each leaf.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2020, algorithm 2.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.number import require_number
from pure.optim.adamw import ScaleByAdamState, adam_init
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    corrected_mean,
    increment,
    map_unzip,
    mean_correction,
    safe_sqrt,
    store_once,
    upcast,
)
from pure.optim.check import check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.scale import scale_by_learning_rate
from pure.types import GradientTransformation, Tree


def radam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    threshold: Scalar = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Builds RAdam: momentum alone at first, then Adam, rectified.

    Args:
        learning_rate, b1, b2, eps, eps_root, nesterov: as in `adamw`.
        threshold: the second moment is used once ro, the effective number of squared gradients in it (see
            `radam_update`), is at least this; > 4.

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the learning rate).

    Raises:
        ValueError: for b1 or b2 outside [0, 1), a negative learning_rate or eps, or a threshold of 4 or less,
            where the factor of `radam_update` is not a number.

    Example:
        The first steps are those of momentum.

        >>> opt = radam(0.1)
        >>> opt.update(torch.tensor([-7.0]), opt.init(torch.tensor([2.0])))[0]
        tensor([0.7000])

    Source: Liu et al. 2020, algorithm 2.
    """
    check_not_negative("radam", optional=True, learning_rate=learning_rate)
    scaled = scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return chain(scaled, scale_by_learning_rate(learning_rate))


def scale_by_radam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    threshold: Scalar = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Builds RAdam's rescaling of gradients, without the learning rate.

    Args:
        b1, b2, eps, eps_root, threshold, nesterov: as in `radam`.

    Returns:
        GradientTransformation with state ScaleByAdamState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), a negative eps, or a threshold of 4 or less.
    """
    check_fraction("scale_by_radam", b1=b1, b2=b2)
    check_not_negative("scale_by_radam", eps=eps, eps_root=eps_root)
    if require_number("scale_by_radam", "threshold", threshold) and not 4 < threshold < math.inf:
        raise ValueError(f"scale_by_radam: threshold must be a finite number > 4, got {threshold}")
    update = partial(
        radam_update, b1=b1, b2=b2, eps=eps, eps_root=eps_root, threshold=threshold, nesterov=nesterov
    )
    return GradientTransformation(adam_init, elementwise(update))


def radam_update(
    updates: Tree,
    state: ScaleByAdamState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    threshold: Scalar,
    nesterov: bool,
    **extra: Any,
) -> tuple[Tree, ScaleByAdamState]:
    """Computes Adam's step times the factor r; before ro reaches the threshold, the mean gradient alone.

        ro_inf = 2 / (1 - b2) - 1;   ro = ro_inf - 2 t b2^t / (1 - b2^t)
        r = √((ro - 4)(ro - 2) ro_inf / ((ro_inf - 4)(ro_inf - 2) ro))
        update = r mu_hat / (√(nu_hat + eps_root) + eps)  if ro >= threshold, else mu_hat

    Args:
        updates: tree of gradients g.
        state: ScaleByAdamState after t - 1 updates.
        params, extra: not used.
        b1, b2, eps, eps_root, threshold, nesterov: as in `radam`.

    Returns:
        (updates, state); updates are not negated.

    Steps:
        1. Count, the corrections, and the rectification, once for all leaves.
        2. Both moments of each leaf, and its step.

    Source: Liu et al. 2020, algorithm 2. Differs from optax: 1 - b2^t is computed by expm1, as ro is the
    difference of two large numbers.
    """
    del params, extra
    # 1. Count and factors.
    count, dtype = increment(state.count), tree.shared_dtype(updates)
    mu_correction = mean_correction(b1, count, dtype, nesterov)
    nu_correction = bias_correction(b2, count, dtype)
    active, factor = _rectification(b2, count.to(dtype), threshold)

    # 2. Moments and step.
    def update_leaf(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = upcast(g)
        mu = (1 - b1) * x + b1 * upcast(m)
        nu = (1 - b2) * x.square() + b2 * upcast(v)
        mean = corrected_mean(x, mu, b1, mu_correction)
        adaptive = factor * mean / (safe_sqrt(nu / nu_correction.to(nu.dtype) + eps_root) + eps)
        step = torch.where(active, adaptive, mean)
        return step.to(torch.promote_types(g.dtype, v.dtype)), mu.to(m.dtype), nu.to(v.dtype)

    steps, mu, nu = map_unzip(3, update_leaf, updates, state.mu, state.nu)
    return steps, ScaleByAdamState(count=count, mu=mu, nu=nu)


def _rectification(b2: Scalar, t: Tensor, threshold: Scalar) -> tuple[Tensor, Tensor]:
    """Returns whether the second moment is used at update t, [] bool, and the factor r, []."""
    if isinstance(b2, Tensor):
        log_b2: Scalar = b2.to(t.dtype).log()
    else:
        log_b2 = math.log(b2) if b2 > 0 else -math.inf
    remaining = -torch.expm1(t * log_b2)  # 1 - b2^t
    ro_inf = 2.0 / (1.0 - b2) - 1.0
    ro = ro_inf - 2 * t * (1 - remaining) / remaining
    active = ro >= threshold
    safe_ro = torch.where(active, ro, ro_inf)  # where r is not used, its square root would be NaN
    square = (safe_ro - 4.0) * (safe_ro - 2.0) * ro_inf / ((ro_inf - 4.0) * (ro_inf - 2.0) * safe_ro)
    return store_once(active), store_once(square.sqrt())
