"""Schedule-free training: an average of the iterates in place of a decay of the learning rate.

Shape letters: none; elementwise on each leaf.

Defazio et al., "The Road Less Scheduled", 2024.
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
    chain,
    increment,
    map_unzip,
    store_once,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.extra import with_extra
from pure.optim.leafwise import mark_as_inner
from pure.optim.rmsprop import scale_by_rms
from pure.optim.same_shapes import require_params
from pure.optim.scale import scale_by_learning_rate
from pure.optim.warmup import warmup_constant_schedule
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class ScheduleFreeState(NamedTuple):
    """The iterates z of the base optimizer, and the weights of their average."""

    b1: Tensor  # []  interpolation between z and the average
    weight_sum: Tensor  # []  sum of the weights in the average
    step_count: Tensor  # [] int32  1 at the start
    max_lr: Tensor  # []  largest learning rate so far
    base_optimizer_state: Tree
    z: Tree  # like the params


def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    weight_lr_power: Scalar = 2.0,
    state_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Replaces the momentum and the decay of an optimizer by an average of its iterates.

    Gradients are taken at y, the params; the average x is what to evaluate: `schedule_free_eval_params`.

        z ← z + update of base_optimizer at y
        x ← (1 - c) x + c z,   c = w / Σw,   w = (largest learning rate so far)^weight_lr_power
        y ← b1 x + (1 - b1) z

    Args:
        base_optimizer: without momentum (b1 = 0).
        learning_rate: of base_optimizer: a number, or a schedule with a warm-up and no decay; weighs the
            average.
        b1: share of the average in y, in (0, 1).
        weight_lr_power: >= 0; weighs the iterates of a warm-up less.
        state_dtype: storage of z; None stores it like the params.

    Returns:
        GradientTransformation with state ScheduleFreeState; leafwise and elementwise if base_optimizer is.

    Raises:
        ValueError: for b1 outside (0, 1), or a negative number; at the update, if params are missing.

    Example:
        One step of 1 along z from 0; the average is z, as it is the first.

        >>> from pure.optim.sgd import sgd
        >>> opt, params = schedule_free(sgd(1.0), 1.0), torch.tensor([0.0])
        >>> opt.update(torch.tensor([-1.0]), opt.init(params), params)[0]
        tensor([1.])

    Source: Defazio et al. 2024, algorithm 1; order of operations as in optax.contrib. Differs from it:
    scalars of the state are float32 at least.
    """
    check_fraction("schedule_free", b1=b1)
    if not isinstance(b1, Tensor) and b1 == 0:
        raise ValueError("schedule_free: b1 must be in (0, 1), got 0; 0.9 is common")
    check_not_negative("schedule_free", learning_rate=learning_rate, weight_lr_power=weight_lr_power)
    check_dtype("schedule_free", state_dtype=state_dtype)
    base = with_extra(base_optimizer)
    update = partial(
        schedule_free_update, base=base, learning_rate=learning_rate, b1=b1, weight_lr_power=weight_lr_power
    )
    return GradientTransformation(
        partial(schedule_free_init, base=base, b1=b1, state_dtype=state_dtype),
        mark_as_inner(update, base),
    )


def schedule_free_adamw(
    learning_rate: float | Tensor = 0.0025,
    warmup_steps: int | None = None,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0,
    weight_lr_power: Scalar = 2.0,
    state_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds `schedule_free` of AdamW without its first moment.

    Args:
        learning_rate: after the warm-up, >= 0.
        warmup_steps: length of a linear warm-up, > 0; None: no warm-up.
        b1, weight_lr_power, state_dtype: as in `schedule_free`.
        b2, eps, weight_decay: as in `adamw`.

    Returns:
        GradientTransformation with state ScheduleFreeState, whose base_optimizer_state is
        (ScaleByRmsWithCountState, state of the weight decay, state of the learning rate).

    Example:
        >>> opt, params = schedule_free_adamw(0.1), torch.tensor([2.0])
        >>> updates, state = opt.update(torch.tensor([30.0]), opt.init(params), params)
        >>> updates, schedule_free_eval_params(state, params + updates)
        (tensor([-0.1000]), tensor([1.9000]))
    """
    rate: ScalarOrSchedule = learning_rate
    if warmup_steps is not None:
        rate = warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(rate),
    )
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def schedule_free_eval_params(state: ScheduleFreeState, params: Tree) -> Tree:
    """Computes the average x from the params y and the state: the params to evaluate and to save."""
    return tree.map(lambda y, z: _average(upcast(y), upcast(z), state.b1).to(y.dtype), params, state.z)


def schedule_free_init(
    params: Tree, *, base: GradientTransformation, b1: Scalar, state_dtype: torch.dtype | None
) -> ScheduleFreeState:
    """Initialises z with a copy of the params."""
    count = zero_count(params)
    zero = torch.zeros_like(count, dtype=tree.shared_dtype(params))
    return ScheduleFreeState(
        b1=zero + b1,
        weight_sum=zero,
        step_count=count + 1,
        max_lr=zero.clone(),
        base_optimizer_state=base.init(params),
        z=tree.map(lambda p: p.to(dtype=state_dtype or p.dtype, copy=True), params),
    )


def schedule_free_update(
    updates: Tree,
    state: ScheduleFreeState,
    params: Tree | None = None,
    *,
    base: GradientTransformation,
    learning_rate: ScalarOrSchedule,
    b1: Scalar,
    weight_lr_power: Scalar,
    **extra: Any,
) -> tuple[Tree, ScheduleFreeState]:
    """Moves z by the base optimizer, then the average x, and returns the change of y.

    Args:
        updates: tree of gradients at the params.
        state: ScheduleFreeState.
        params: y.
        base: `base_optimizer` of `schedule_free`.
        learning_rate, b1, weight_lr_power: as in `schedule_free`.
        extra: passed to `base`.

    Returns:
        (updates, state).

    Raises:
        ValueError: if params are missing.

    Steps:
        1. The weight of the new iterate, once for all leaves.
        2. Move z.
        3. Move the average, and y between both.

    Edge cases: while all learning rates were 0 the average stays.
    """
    params = require_params("schedule_free", params)
    # 1. Weight.
    rate = learning_rate(state.step_count) if callable(learning_rate) else learning_rate
    max_lr = torch.maximum(state.max_lr, torch.as_tensor(rate, dtype=state.max_lr.dtype))
    weight = max_lr**weight_lr_power
    weight_sum = state.weight_sum + weight
    empty = weight_sum == 0
    share = store_once(torch.where(empty, 0.0, weight / torch.where(empty, 1.0, weight_sum)))
    # 2. Move z.
    moves, base_state = base.update(updates, state.base_optimizer_state, params, **extra)

    def leaf(y: Tensor, z: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
        old = upcast(z)
        new = (old + upcast(move)).to(z.dtype)
        # 3. Move the average.
        x = (1.0 - share) * _average(upcast(y), old, b1) + share * upcast(new)
        change = b1 * x + (1.0 - b1) * upcast(new) - upcast(y)
        return change.to(y.dtype), new

    changes, z = map_unzip(2, leaf, params, state.z, moves)
    count = increment(state.step_count)
    return changes, ScheduleFreeState(state.b1, weight_sum, count, max_lr, base_state, z)


def _average(y: Tensor, z: Tensor, b1: Scalar) -> Tensor:
    """Solves y = b1 x + (1 - b1) z for the average x."""
    return (y - (1.0 - b1) * z) / b1
