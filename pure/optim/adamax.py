"""AdaMax and AdaMaxW: Adam divided by a decaying maximum of absolute gradients.

Shape letters: none; elementwise on each leaf.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import ScaleByAdamState, adam_init
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    increment,
    map_unzip,
    upcast,
)
from pure.optim.check import check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


def adamax(
    learning_rate: ScalarOrSchedule, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8
) -> GradientTransformation:
    """Builds AdaMax: the mean gradient divided by the largest recent one.

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the learning rate); nu is the maximum.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or a negative learning_rate or eps.

    Example:
        >>> opt = adamax(0.1)
        >>> opt.update(torch.tensor([-7.0]), opt.init(torch.tensor([2.0])))[0]
        tensor([0.1000])

    Source: Kingma and Ba 2015, algorithm 2.
    """
    check_not_negative("adamax", optional=True, learning_rate=learning_rate)
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds AdaMaxW: `adamax` with decoupled weight decay.

    Args:
        learning_rate, b1, b2, weight_decay, mask: as in `adamw`.
        eps: added to the absolute gradients.

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the weight decay, state of the learning
        rate).

    Raises:
        ValueError: as in `adamax`, and for a negative weight_decay.
    """
    check_not_negative("adamaxw", optional=True, learning_rate=learning_rate)
    decay = add_decayed_weights(weight_decay, mask)
    return chain(scale_by_adamax(b1, b2, eps), decay, scale_by_learning_rate(learning_rate))


def scale_by_adamax(b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8) -> GradientTransformation:
    """Builds AdaMax's rescaling of gradients, without the learning rate.

    Returns:
        GradientTransformation with state ScaleByAdamState; updates are not negated.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or a negative eps.
    """
    check_fraction("scale_by_adamax", b1=b1, b2=b2)
    check_not_negative("scale_by_adamax", eps=eps)
    return GradientTransformation(adam_init, elementwise(partial(adamax_update, b1=b1, b2=b2, eps=eps)))


def adamax_update(
    updates: Tree,
    state: ScaleByAdamState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    **extra: Any,
) -> tuple[Tree, ScaleByAdamState]:
    """Divides the corrected mean gradient by the decaying maximum.

        mu ← (1 - b1) g + b1 mu;   nu ← max(|g| + eps, b2 nu);   update = mu / (1 - b1^t) / nu

    Args:
        updates: tree of gradients g.
        state: ScaleByAdamState after t - 1 updates.
        params, extra: not used.
        b1, b2, eps: as in `adamax`.

    Returns:
        (updates, state); updates are not negated.
    """
    del params, extra
    count = increment(state.count)
    correction = bias_correction(b1, count, tree.shared_dtype(updates))

    def leaf(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = upcast(g)
        mu = (1 - b1) * x + b1 * upcast(m)
        nu = torch.maximum(x.abs() + eps, b2 * upcast(v))
        step = mu / correction.to(mu.dtype) / nu
        return step.to(torch.promote_types(g.dtype, m.dtype)), mu.to(m.dtype), nu.to(v.dtype)

    steps, mu, nu = map_unzip(3, leaf, updates, state.mu, state.nu)
    return steps, ScaleByAdamState(count=count, mu=mu, nu=nu)
