"""Cautious weight decay: a weight decays only where that does not work against the optimizer's step.

Shape letters: none; elementwise on each leaf.

Chen et al., "Cautious Weight Decay", 2025.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import scale_by_adam
from pure.optim.base import EmptyState, Scalar, ScalarOrSchedule, chain, empty_init, increment, upcast
from pure.optim.check import check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask, masked
from pure.optim.same_shapes import check_same_shapes, require_params
from pure.optim.scale import scale_by_learning_rate, schedule_value
from pure.optim.weight_decay import WeightDecaySchedule, decay_schedule_init
from pure.types import GradientTransformation, Tree


def cautious_decay_adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds AdamW with `add_cautious_decayed_weights` in place of its weight decay.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask: as in `adamw`.

    Returns:
        GradientTransformation with the state of `adamw`.

    Raises:
        ValueError: as in `adamw`.

    Example:
        The first weight is to fall, and decays too; the second is to grow, and does not decay.

        >>> opt, params = cautious_decay_adamw(0.1, weight_decay=0.5), torch.tensor([2.0, 2.0])
        >>> opt.update(torch.tensor([30.0, -30.0]), opt.init(params), params)[0]
        tensor([-0.2000,  0.1000])

    Source: Chen et al. 2025, section 2, of AdamW.
    """
    check_not_negative("cautious_decay_adamw", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype),
        add_cautious_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def add_cautious_decayed_weights(
    weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    """Adds weight_decay * params to the updates where update and parameter have the same sign.

    Plain decay moves the minimum of the loss; this one does not, as a weight that the loss wants to grow is
    left alone. It takes the place of `add_decayed_weights` in any chain, before the learning rate.

        u ← u + weight_decay p  where u p ≥ 0

    Args:
        weight_decay: >= 0; a number, a [] tensor or a schedule.
        mask: which leaves decay, as in `adamw`.

    Returns:
        GradientTransformation with the state of `add_decayed_weights`.

    Raises:
        ValueError: if weight_decay is negative (at once), or params is missing or of another shape (at the
            update).

    Edge cases: where the update is 0 the weight decays.

    Example:
        >>> params = torch.tensor([4.0, 4.0])
        >>> decay = add_cautious_decayed_weights(0.25)
        >>> decay.update(torch.tensor([1.0, -1.0]), EmptyState(), params)[0]
        tensor([ 2., -1.])

    Source: Chen et al. 2025, algorithm 1.
    """
    check_not_negative("add_cautious_decayed_weights", weight_decay=weight_decay)
    init = decay_schedule_init if callable(weight_decay) else empty_init
    decay = GradientTransformation(
        init, elementwise(partial(cautious_decay_update, weight_decay=weight_decay))
    )
    return decay if mask is None else masked(decay, mask)


def cautious_decay_update(
    updates: Tree,
    state: EmptyState | WeightDecaySchedule,
    params: Tree | None = None,
    *,
    weight_decay: ScalarOrSchedule,
    **extra: Any,
) -> tuple[Tree, EmptyState | WeightDecaySchedule]:
    """Adds the decay of the weights whose update has their sign, in the wider dtype of the two.

    Args:
        updates: tree of updates, not yet negated.
        state: EmptyState, or WeightDecaySchedule if the weight decay is a schedule.
        params: like updates.
        weight_decay: as in `add_cautious_decayed_weights`.
        extra: not used.

    Returns:
        (updates, state).

    Raises:
        ValueError: if params is missing, or its leaves differ in shape from those of updates.
    """
    del extra
    params = require_params("add_cautious_decayed_weights", params)
    check_same_shapes(updates, params)
    count = state.count if isinstance(state, WeightDecaySchedule) else None
    rate = schedule_value(weight_decay, count)

    def leaf(u: Tensor, p: Tensor) -> Tensor:
        step, weight = upcast(u), upcast(p)
        decay = torch.where(u.sign() * p.sign() >= 0, rate * weight, 0.0 * weight)
        return (step + decay).to(torch.promote_types(u.dtype, p.dtype))

    new_state = state if count is None else WeightDecaySchedule(count=increment(count))
    return tree.map(leaf, updates, params), new_state
