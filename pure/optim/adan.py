"""Adan: Adam with a momentum of the differences of successive gradients.

Shape letters: none; elementwise on each leaf.

Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", 2022, algorithm 1.
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
from pure.optim.check import check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class ScaleByAdanState(NamedTuple):
    """Three moments, the last gradient and the count of updates."""

    m: Tree  # running mean of the gradient, like the params
    v: Tree  # running mean of the differences of gradients
    n: Tree  # running mean of the squares of the gradient that looks ahead
    g: Tree  # the last gradient
    t: Tensor  # [] int32  updates so far


def adan(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.98,
    b2: Scalar = 0.92,
    b3: Scalar = 0.99,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds Adan: Nesterov's momentum from differences of gradients, divided by a root mean square.

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        b1: decay of the mean of gradients, in [0, 1).
        b2: decay of the mean of differences, in [0, 1).
        b3: decay of the mean of squares, in [0, 1).
        eps: added to the denominator, outside the root.
        eps_root: added inside the root.
        weight_decay, mask: as in `adamw`.

    Returns:
        GradientTransformation with state (ScaleByAdanState, state of the weight decay, state of the learning
        rate).

    Raises:
        ValueError: for a decay outside [0, 1), or a negative number.

    Example:
        >>> opt, params = adan(0.1), torch.tensor([2.0])
        >>> opt.update(torch.tensor([-7.0]), opt.init(params), params)[0]
        tensor([0.1000])

    Source: Xie et al. 2022, algorithm 1; b1, b2 and b3 are one minus the paper's.
    """
    check_not_negative("adan", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_adan(
    b1: Scalar = 0.98, b2: Scalar = 0.92, b3: Scalar = 0.99, eps: Scalar = 1e-8, eps_root: Scalar = 0.0
) -> GradientTransformation:
    """Builds Adan's rescaling of gradients, without the learning rate; `adan_update` has the formulas.

    Args:
        b1, b2, b3, eps, eps_root: as in `adan`.

    Returns:
        GradientTransformation with state ScaleByAdanState; updates are not negated.

    Raises:
        ValueError: for a decay outside [0, 1), or a negative eps.
    """
    check_fraction("scale_by_adan", b1=b1, b2=b2, b3=b3)
    check_not_negative("scale_by_adan", eps=eps, eps_root=eps_root)
    update = partial(adan_update, b1=b1, b2=b2, b3=b3, eps=eps, eps_root=eps_root)
    return GradientTransformation(adan_init, elementwise(update))


def adan_init(params: Tree) -> ScaleByAdanState:
    """Initialises the moments and the last gradient with zeros."""
    m, v, n, g = (tree.zeros_like(params) for _ in range(4))
    return ScaleByAdanState(m, v, n, g, zero_count(params))


def adan_update(
    updates: Tree,
    state: ScaleByAdanState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    b3: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    **extra: Any,
) -> tuple[Tree, ScaleByAdanState]:
    """Adds the mean gradient and the mean of differences, and divides by the root mean square.

        d = g - last g  (0 at the first update)
        m ← (1 - b1) g + b1 m;   v ← (1 - b2) d + b2 v;   n ← (1 - b3) (g + (1 - b2) d)² + b3 n
        update = (m_hat + (1 - b2) v_hat) / (√(n_hat + eps_root) + eps),  each corrected by 1 - b^t

    Args:
        updates: tree of gradients g.
        state: ScaleByAdanState after t - 1 updates.
        params, extra: not used.
        b1, b2, b3, eps, eps_root: as in `adan`.

    Returns:
        (updates, state); updates are not negated.

    Source: Xie et al. 2022, algorithm 1, with optax's order of operations.
    """
    del params, extra
    t, dtype = increment(state.t), tree.shared_dtype(updates)
    corrections = [bias_correction(decay, t, dtype) for decay in (b1, b2, b3)]

    def leaf(g: Tensor, m: Tensor, v: Tensor, n: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        x = upcast(g)
        difference = torch.where(state.t == 0, 0.0, x - upcast(last))
        ahead = x + (1 - b2) * difference
        moments = (
            (1 - b1) * x + b1 * upcast(m),
            (1 - b2) * difference + b2 * upcast(v),
            (1 - b3) * ahead.square() + b3 * upcast(n),
        )
        mean, slope, square = (a / c.to(a.dtype) for a, c in zip(moments, corrections, strict=True))
        step = (mean + (1 - b2) * slope) / (safe_sqrt(square + eps_root) + eps)
        stored = [new.to(old.dtype) for new, old in zip((*moments, x), (m, v, n, last), strict=True)]
        return step.to(torch.promote_types(g.dtype, m.dtype)), *stored

    steps, m, v, n, g = map_unzip(5, leaf, updates, state.m, state.v, state.n, state.g)
    return steps, ScaleByAdanState(m, v, n, g, t)
