"""Decoupled weight decay: weights shrink towards zero independently of the gradient.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import EmptyState, ScalarOrSchedule, empty_init, increment, upcast, zero_count
from pure.optim.check import check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask, masked
from pure.optim.same_shapes import check_same_shapes
from pure.optim.scale import schedule_value
from pure.types import GradientTransformation, Tree


class WeightDecaySchedule(NamedTuple):
    """State of a scheduled weight decay: the number of updates so far."""

    count: Tensor  # type: ignore[assignment]  # [] int32


def add_decayed_weights(
    weight_decay: ScalarOrSchedule = 0.0, mask: Mask | None = None
) -> GradientTransformation:
    """Adds weight_decay * params to the updates: u ← u + weight_decay p.

    In a chain it stands before the learning rate (which flips the sign); every step then multiplies the
    weights by 1 - learning_rate weight_decay, besides adding the update.

    Args:
        weight_decay: >= 0; a number, a [] tensor or a schedule.
        mask: which leaves decay, as in `adamw`.

    Returns:
        GradientTransformation with state EmptyState(), or WeightDecaySchedule(count); under a mask inside a
        MaskedState.

    Raises:
        ValueError: if weight_decay is negative (at once), or params is missing (at the update; a fixed 0
            needs none).

    Example:
        >>> opt = add_decayed_weights(0.5)
        >>> opt.update(torch.tensor(1.0), EmptyState(), torch.tensor(4.0))[0]
        tensor(3.)
    """
    check_not_negative("add_decayed_weights", weight_decay=weight_decay)
    init = decay_schedule_init if callable(weight_decay) else empty_init
    decay = GradientTransformation(init, elementwise(partial(decay_update, weight_decay=weight_decay)))
    return decay if mask is None else masked(decay, mask)


def decay_schedule_init(params: Tree) -> WeightDecaySchedule:
    """Initialises the count with 0."""
    return WeightDecaySchedule(count=zero_count(params))


def decay_update(
    updates: Tree,
    state: EmptyState | WeightDecaySchedule,
    params: Tree | None = None,
    *,
    weight_decay: ScalarOrSchedule,
    **extra: Any,
) -> tuple[Tree, EmptyState | WeightDecaySchedule]:
    """Adds weight_decay * params, in the wider dtype of the two.

    Added after Adam's division, the decay is the same for all weights; added to the gradient it would be
    divided by √nu, so weak where gradients are large.

        u ← u + weight_decay p

    Args:
        updates: tree of updates u.
        state: EmptyState, or WeightDecaySchedule if the weight decay is a schedule.
        params: p, same structure and shapes as updates.
        weight_decay: >= 0; a number, a [] tensor or a schedule, which gets the count before this update.
        extra: not used.

    Returns:
        (updates, state), updates in the wider dtype of u and p.

    Steps:
        1. Next state: WeightDecaySchedule with its count incremented (`increment(count)`), or the
            state as it is.
        2. If weight_decay is the number 0 (not a tensor), return the updates as they are.
        3. Check that params is given, and that shapes are equal (`check_same_shapes(updates, params)`).
        4. Value of weight_decay: `schedule_value(weight_decay, count)` of the old count, None without a
            schedule.
        5. Add it times p to each leaf, in at least float32 (`upcast`), and cast to the wider dtype: by
            `tree.map(leaf, updates, params)`.

    Edge cases: a tensor or a schedule of value 0 still needs params.

    Raises:
        ValueError: if weight_decay is not the number 0 and params is missing (the message says "params is
            needed for weight decay: call update(grads, state, params)"), or its leaves differ in shape from
            those of updates.

    Example:
        1 + 0.5 · 4.

        >>> decay_update(torch.tensor(1.0), EmptyState(), torch.tensor(4.0), weight_decay=0.5)
        (tensor(3.), EmptyState())

    Source: Loshchilov and Hutter 2019, algorithm 2. Differs from it: the learning rate multiplies the decay
    too, as in optax and torch.
    """
    del extra
    # 1. Next state.
    count = state.count if isinstance(state, WeightDecaySchedule) else None
    new_state = state if count is None else WeightDecaySchedule(count=increment(count))
    # 2. No decay.
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return updates, new_state
    # 3. Check.
    if params is None:
        raise ValueError(
            "add_decayed_weights: params is needed for weight decay: call update(grads, state, params)"
        )
    check_same_shapes(updates, params)
    # 4. Value [].
    rate = schedule_value(weight_decay, count)

    def leaf(g: Tensor, p: Tensor) -> Tensor:
        # 5. Sum, in the shape of the leaf.
        return (upcast(g) + rate * upcast(p)).to(torch.promote_types(g.dtype, p.dtype))

    return tree.map(leaf, updates, params), new_state
