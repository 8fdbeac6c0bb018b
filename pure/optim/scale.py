"""Scaling by a number, a schedule or minus the learning rate, the last link of every optimizer.

Shape letters: none; elementwise on each leaf.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from pure import tree
from pure.optim.base import (
    EmptyState,
    Scalar,
    ScalarOrSchedule,
    empty_init,
    identity,
    increment,
    store_once,
    upcast,
    zero_count,
)
from pure.optim.check import check_not_negative, check_number
from pure.optim.leafwise import elementwise
from pure.optim.same_shapes import check_same_shapes
from pure.types import GradientTransformation, Schedule, Tree


class ScaleByScheduleState(NamedTuple):
    """The number of updates so far, from which a schedule reads its value."""

    count: Tensor  # type: ignore[assignment]  # [] int32


def scale(step_size: Scalar) -> GradientTransformation:
    """Multiplies updates by a fixed number (any sign).

    Args:
        step_size: a number or [] tensor.

    Raises:
        ValueError: if step_size is not finite, or a tensor with axes.
        TypeError: if step_size is neither a number nor a tensor.

    Example:
        >>> scale(3.0).update(torch.tensor(2.0), EmptyState())[0]
        tensor(6.)
    """
    check_number("scale", step_size=step_size)
    return GradientTransformation(empty_init, elementwise(partial(scale_update, step_size=step_size)))


def scale_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, *, step_size: Scalar, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Multiplies every leaf by `step_size`, keeping its dtype."""
    del params, extra
    return _multiply(step_size, updates), state


def scale_by_schedule(step_size_fn: Schedule) -> GradientTransformation:
    """Multiplies updates by the value of a schedule.

    Args:
        step_size_fn: schedule, count [] int32 -> [] float32. The count is 0 at the first update.

    Example:
        >>> from pure.optim.schedule import linear_schedule
        >>> opt = scale_by_schedule(linear_schedule(0.0, 1.0, 4))
        >>> state = opt.init(torch.tensor(0.0))
        >>> _, state = opt.update(torch.tensor(8.0), state)
        >>> opt.update(torch.tensor(8.0), state)
        (tensor(2.), ScaleByScheduleState(count=tensor(2, dtype=torch.int32)))
    """
    return GradientTransformation(
        schedule_init, elementwise(partial(schedule_update, step_size_fn=step_size_fn))
    )


def schedule_init(params: Tree) -> ScaleByScheduleState:
    """Initialises the count with 0."""
    return ScaleByScheduleState(count=zero_count(params))


def schedule_update(
    updates: Tree,
    state: ScaleByScheduleState,
    params: Tree | None = None,
    *,
    step_size_fn: Schedule,
    flip_sign: bool = False,
    **extra: Any,
) -> tuple[Tree, ScaleByScheduleState]:
    """Multiplies every leaf by step_size_fn(count), or by its negative, and counts.

    Args:
        updates: tree of updates.
        state: ScaleByScheduleState.
        params: only its shapes are checked, if given.
        extra: not used.
        step_size_fn: schedule, count [] int32 -> [] float32.
        flip_sign: multiply by the negative.

    Returns:
        (updates, state), each leaf in its own dtype.
    """
    del extra
    if params is not None:
        check_same_shapes(updates, params)
    value = schedule_value(step_size_fn, state.count)
    new_state = ScaleByScheduleState(count=increment(state.count))
    return _multiply(-value if flip_sign else value, updates), new_state


def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule | None, *, flip_sign: bool = True
) -> GradientTransformation:
    """Multiplies updates by minus the learning rate, so that adding them descends the loss.

    Args:
        learning_rate: a number >= 0, a [] tensor, or a schedule. None is the identity, as in optax.
        flip_sign: False multiplies by plus the learning rate (gradient ascent).

    Returns:
        GradientTransformation with state EmptyState(), or ScaleByScheduleState(count) for a schedule.

    Raises:
        ValueError: if a number is negative or not finite.
        TypeError: if learning_rate is none of these.

    Example:
        >>> scale_by_learning_rate(0.1).update(torch.tensor(5.0), EmptyState())[0]
        tensor(-0.5000)
    """
    check_not_negative("scale_by_learning_rate", optional=True, learning_rate=learning_rate)
    if learning_rate is None:
        return identity()
    if callable(learning_rate):
        by_schedule = partial(schedule_update, step_size_fn=learning_rate, flip_sign=flip_sign)
        return GradientTransformation(schedule_init, elementwise(by_schedule))
    by_number = partial(learning_rate_update, learning_rate=learning_rate, flip_sign=flip_sign)
    return GradientTransformation(empty_init, elementwise(by_number))


def learning_rate_update(
    updates: Tree,
    state: EmptyState,
    params: Tree | None = None,
    *,
    learning_rate: Scalar,
    flip_sign: bool,
    **extra: Any,
) -> tuple[Tree, EmptyState]:
    """Multiplies every leaf by -learning_rate (by learning_rate if not `flip_sign`).

    Args:
        updates: tree of updates.
        state: EmptyState().
        params: only its shapes are checked, if given.
        extra: not used.
        learning_rate, flip_sign: as in `scale_by_learning_rate`.

    Returns:
        (updates, state), each leaf in its own dtype.
    """
    del extra
    if params is not None:
        check_same_shapes(updates, params)
    return _multiply(-learning_rate if flip_sign else learning_rate, updates), state


def schedule_value(value: ScalarOrSchedule, count: Tensor | None) -> Scalar:
    """Evaluates a schedule at `count`; a number, which needs no count, is returned unchanged."""
    if count is None or not callable(value):
        return value  # type: ignore[return-value]
    current = value(count)
    # A compiled update computes the schedule once, not for each element.
    return store_once(current) if isinstance(current, Tensor) else current


def _multiply(factor: Scalar, updates: Tree) -> Tree:
    """Multiplies every leaf, in float32 or wider, and converts it back to its dtype."""
    return tree.map(lambda g: (factor * upcast(g)).to(g.dtype), updates)
