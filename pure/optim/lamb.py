"""LAMB: Adam with a step for each leaf in proportion to the norm of its parameters, for very large batches.

Shape letters: none; one ratio for each leaf.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import scale_by_adam
from pure.optim.base import (
    EmptyState,
    Scalar,
    ScalarOrSchedule,
    chain,
    empty_init,
    safe_sqrt,
    store_once,
    upcast,
)
from pure.optim.check import check_not_negative
from pure.optim.leafwise import leafwise
from pure.optim.mask import Mask
from pure.optim.same_shapes import check_same_shapes, require_params
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


def lamb(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-6,
    eps_root: Scalar = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds LAMB: `adamw` with the trust ratio before the learning rate.

        u = -learning_rate (‖p‖ / ‖a‖) a,   a = Adam's step + weight_decay p

    Args:
        learning_rate: relative step of each leaf, >= 0; a number, a [] tensor or a schedule.
        b1, b2, eps, eps_root, weight_decay, mask: as in `adamw`.

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the weight decay, EmptyState(), state of
        the learning rate).

    Raises:
        ValueError: for b1 or b2 outside [0, 1), a negative learning_rate, eps or weight_decay; at the update,
            if params are missing.

    Example:
        ‖p‖ = 5, and Adam's first step is (1, 1), of norm √2.

        >>> opt, params = lamb(0.1), torch.tensor([3.0, 4.0])
        >>> opt.update(torch.tensor([2.0, 90.0]), opt.init(params), params)[0]
        tensor([-0.3536, -0.3536])

    Source: You et al. 2020, algorithm 2, with the identity as scaling function.
    """
    check_not_negative("lamb", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_trust_ratio(
    min_norm: Scalar = 0.0, trust_coefficient: Scalar = 1.0, eps: Scalar = 0.0
) -> GradientTransformation:
    """Scales the update of each leaf to the norm of its parameters (times `trust_coefficient`).

        u ← u trust_coefficient max(‖p‖, min_norm) / (max(‖u‖, min_norm) + eps)

    Args:
        min_norm: lower bound of both norms, >= 0.
        trust_coefficient: factor, >= 0.
        eps: added to the update's norm, >= 0.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: for a negative number; at the update, if params are missing.

    Example:
        >>> params = torch.tensor([3.0, 4.0])
        >>> scale_by_trust_ratio().update(torch.tensor([0.0, 2.0]), EmptyState(), params)[0]
        tensor([0., 5.])

    Source: You et al. 2020, algorithm 2; LARS (You et al. 2017) has the same ratio.
    """
    check_not_negative(
        "scale_by_trust_ratio", min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps
    )
    update = partial(trust_ratio_update, min_norm=min_norm, trust_coefficient=trust_coefficient, eps=eps)
    return GradientTransformation(empty_init, leafwise(update))


def trust_ratio_update(
    updates: Tree,
    state: EmptyState,
    params: Tree | None = None,
    *,
    min_norm: Scalar,
    trust_coefficient: Scalar,
    eps: Scalar,
    **extra: Any,
) -> tuple[Tree, EmptyState]:
    """Multiplies each leaf by its trust ratio; see `scale_by_trust_ratio` for the formula.

    Args:
        updates: tree of updates.
        state: EmptyState().
        params: like updates.
        min_norm, trust_coefficient, eps: as in `scale_by_trust_ratio`.
        extra: not used.

    Returns:
        (updates, state).

    Raises:
        ValueError: if params are missing, or differ in shape.

    Edge cases: where a norm is 0 (after `min_norm`) the ratio is 1, so that parameters which start at 0 move.
    """
    del extra
    params = require_params("scale_by_trust_ratio", params)
    check_same_shapes(updates, params)

    def leaf(u: Tensor, p: Tensor) -> Tensor:
        x, param_norm = upcast(u), _norm(upcast(p), min_norm)
        update_norm = _norm(x, min_norm)
        zero = (param_norm == 0) | (update_norm == 0)
        ratio = trust_coefficient * param_norm / (torch.where(zero, 1.0, update_norm) + eps)
        return (x * store_once(torch.where(zero, 1.0, ratio))).to(torch.promote_types(u.dtype, p.dtype))

    return tree.map(leaf, updates, params), state


def _norm(x: Tensor, least: Scalar) -> Tensor:
    """Computes the norm of all elements [], at least `least`; its derivative at 0 is 0."""
    return safe_sqrt(x.square().sum()).clamp(min=least)
