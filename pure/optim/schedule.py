"""Schedules: values that change during a run, as pure functions of the count of updates so far.

A schedule takes count [] int32 (or a Python int, or a vector of counts, for plotting) and returns [] float32.
Every builder binds its arguments to a module-level function, so that a run's fingerprint can read them. The
order of operations is optax's. An argument that is a Scalar may be a number or a [] tensor.

Smith, "Cyclical Learning Rates for Training Neural Networks", 2017 (warm-up and cycles); Loshchilov and
Hutter, "SGDR", 2017 (cosine, restarts); Hu et al., "MiniCPM", 2024 (WSD).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure.number import is_int
from pure.optim.base import Scalar
from pure.plural import count_noun
from pure.types import Schedule


def constant_schedule(value: Scalar) -> Schedule:
    """Builds the schedule that returns `value` at every count.

    Example:
        >>> constant_schedule(0.5)(7)
        tensor(0.5000)
    """
    return partial(_constant, value=value)


def _constant(count: Tensor | int, *, value: Scalar) -> Tensor:
    """Returns `value` as [] float32, on the device of `count`."""
    return torch.zeros_like(as_count(count), dtype=torch.float32) + value


def polynomial_schedule(
    init_value: Scalar, end_value: Scalar, power: Scalar, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """Decays from `init_value` to `end_value` by a power of the remaining time.

        c = clip(count - transition_begin, 0, transition_steps)
        value = (init_value - end_value) (1 - c / transition_steps)^power + end_value

    Args:
        init_value, end_value: values before and after the transition.
        power: > 0; 1 is linear, 2 falls steeply first.
        transition_steps: length of the transition, > 0 (optax silently holds init_value for 0).
        transition_begin: count at which it starts, >= 0.

    Raises:
        ValueError: if transition_steps is not positive or transition_begin is negative.

    Example:
        Half-way along a parabola from 1: (1 - 1/2)².

        >>> polynomial_schedule(1.0, 0.0, 2, 10)(5)
        tensor(0.2500)
    """
    check_steps("polynomial_schedule", transition_steps=transition_steps)
    check_steps("polynomial_schedule", at_least=0, transition_begin=transition_begin)
    return partial(
        _polynomial,
        init_value=init_value,
        end_value=end_value,
        power=power,
        transition_steps=transition_steps,
        transition_begin=transition_begin,
    )


def _polynomial(
    count: Tensor | int,
    *,
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: int,
    transition_begin: int,
) -> Tensor:
    """Evaluates `polynomial_schedule` at `count`.

    The value falls by a power of the time that remains: with power 1 evenly, with power 2 steeply first.

        c = clip(count - transition_begin, 0, transition_steps)
        value = (init_value - end_value) (1 - c / transition_steps)^power + end_value

    Args:
        count: updates so far: [] int32, a Python int, or a vector of counts [n].
        init_value, end_value: values before and after the transition; a number or a [] tensor.
        power: > 0; a number or a [] tensor.
        transition_steps: length of the transition, updates, > 0.
        transition_begin: count at which it starts, >= 0.

    Returns:
        [...] float32, in the shape of the count.

    Steps:
        1. Elapsed updates c: `as_count(count)` minus the start, clamped while it is an integer, then float32.
        2. Remaining fraction 1 - c / transition_steps, in 0 .. 1.
        3. Its power, scaled to the two values.

    Edge cases: before the transition init_value, after it end_value.

    Example:
        Half-way along a parabola from 1 to 0: (1 - 1/2)².

        >>> ends = {"init_value": 1.0, "end_value": 0.0}
        >>> _polynomial(7, **ends, power=2, transition_steps=10, transition_begin=2)
        tensor(0.2500)

    Source: optax, `polynomial_schedule`, of which it has the order of operations.
    """
    # 1. Elapsed updates.
    elapsed = (as_count(count) - transition_begin).clamp(0, transition_steps).to(torch.float32)
    # 2. Remaining fraction.
    remaining = 1 - elapsed / transition_steps
    # 3. Value.
    return (init_value - end_value) * remaining**power + end_value


def linear_schedule(
    init_value: Scalar, end_value: Scalar, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """Interpolates linearly from `init_value` to `end_value`, then stays: `polynomial_schedule` of power 1.

    Example:
        >>> [round(linear_schedule(0.0, 1.0, 4)(count).item(), 2) for count in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """
    return polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin)


def cosine_decay_schedule(
    init_value: Scalar, decay_steps: int, alpha: Scalar = 0.0, exponent: Scalar = 1.0
) -> Schedule:
    """Decays along half a cosine: slowly, then fast, then slowly.

        c = min(count, decay_steps) / decay_steps
        value = init_value ((1 - alpha) ((1 + cos(π c)) / 2)^exponent + alpha)

    Args:
        init_value: value at count 0.
        decay_steps: length of the decay, > 0.
        alpha: final fraction of init_value, 0 to 1.
        exponent: of the cosine curve, > 0.

    Raises:
        ValueError: if decay_steps is not positive.

    Example:
        Half-way it is the mean of both ends: (1 + 0.2) / 2.

        >>> [round(cosine_decay_schedule(1.0, 10, alpha=0.2)(count).item(), 4) for count in (0, 5, 10, 99)]
        [1.0, 0.6, 0.2, 0.2]

    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    check_steps("cosine_decay_schedule", decay_steps=decay_steps)
    return partial(_cosine, init_value=init_value, decay_steps=decay_steps, alpha=alpha, exponent=exponent)


def _cosine(
    count: Tensor | int, *, init_value: Scalar, decay_steps: int, alpha: Scalar, exponent: Scalar
) -> Tensor:
    """Evaluates `cosine_decay_schedule` at `count`.

    The learning rate stays near its first value for a while, and reaches the last one without a bend.

        c = min(count, decay_steps) / decay_steps
        value = init_value ((1 - alpha) ((1 + cos(π c)) / 2)^exponent + alpha)

    Args:
        count: updates so far: [] int32, a Python int, or a vector of counts [n].
        init_value: value at count 0; a number or a [] tensor.
        decay_steps: length of the decay, updates, > 0.
        alpha: final fraction of init_value, 0 to 1; a number or a [] tensor.
        exponent: of the cosine curve, > 0; a number or a [] tensor.

    Returns:
        [...] float32, in the shape of the count.

    Steps:
        1. Elapsed updates: `as_count(count)` as float32, at most decay_steps.
        2. Cosine curve, from 1 to 0: half of 1 + cos(π elapsed / decay_steps).
        3. Its power, between alpha and 1, times init_value.

    Edge cases: after the decay the value is init_value alpha.

    Example:
        Half-way it is the mean of both ends: (1 + 0.2) / 2.

        >>> _cosine(5, init_value=1.0, decay_steps=10, alpha=0.2, exponent=1.0)
        tensor(0.6000)

    Source: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    # 1. Elapsed updates.
    elapsed = as_count(count).to(torch.float32).clamp(max=decay_steps)
    # 2. Cosine curve.
    decayed = 0.5 * (1 + torch.cos(math.pi * elapsed / decay_steps))
    # 3. Value.
    return init_value * ((1 - alpha) * decayed**exponent + alpha)


def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Concatenates schedules; each counts from its own start.

    Args:
        schedules: n >= 1 schedules.
        boundaries: n - 1 ascending counts: schedule i + 1 starts at boundaries[i], and gets count -
            boundaries[i].

    Raises:
        ValueError: without schedules, unless there are n - 1 boundaries, or if they do not ascend.

    Example:
        >>> two = join_schedules([constant_schedule(1.0), linear_schedule(2.0, 4.0, 2)], [10])
        >>> [two(count).item() for count in (9, 10, 11, 12)]
        [1.0, 2.0, 3.0, 4.0]
    """
    schedules, boundaries = tuple(schedules), tuple(boundaries)
    if not schedules:
        raise ValueError("join_schedules: expected at least one schedule, got none")
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(
            f"join_schedules: {len(schedules)} schedules need "
            f"{count_noun(len(schedules) - 1, 'boundary', 'boundaries')}, got {len(boundaries)}: "
            f"{list(boundaries)}"
        )
    if list(boundaries) != sorted(boundaries):
        raise ValueError(
            f"join_schedules: boundaries must ascend, got {list(boundaries)}; sort them with their schedules"
        )
    return partial(_joined, schedules=schedules, boundaries=boundaries)


def _joined(count: Tensor | int, *, schedules: tuple[Schedule, ...], boundaries: tuple[int, ...]) -> Tensor:
    """Evaluates every schedule of `join_schedules`, and selects the one of `count`.

    A count is a tensor, on which a program cannot branch when it is compiled: all schedules are evaluated.

        value = schedules[i](count - boundaries[i - 1]),     i the number of boundaries <= count

    Args:
        count: updates so far: [] int32, a Python int, or a vector of counts [n].
        schedules: n of them; each gets the count from its own start, the first one the count itself.
        boundaries: n - 1 ascending counts, at which the second and later schedules start.

    Returns:
        [...] float32, in the shape of the count.

    Steps:
        1. Convert the count (`as_count`), and evaluate the first schedule.
        2. For each boundary and the schedule that starts there: keep the value so far where count <
            boundary, else take the schedule's (`torch.where`).

    Edge cases: at a boundary the later schedule counts from 0; of two equal boundaries the last one counts.

    Example:
        The second schedule starts at 10, with its own count 0.

        >>> schedules = (constant_schedule(1.0), linear_schedule(2.0, 4.0, 2))
        >>> [_joined(count, schedules=schedules, boundaries=(10,)).item() for count in (9, 10, 11)]
        [1.0, 2.0, 3.0]

    Source: optax, `join_schedules`.
    """
    # 1. First schedule.
    count = as_count(count)
    value = schedules[0](count)
    # 2. Later schedules.
    for boundary, schedule in zip(boundaries, schedules[1:], strict=True):
        value = torch.where(count < boundary, value, schedule(count - boundary))
    return value


def as_count(count: Tensor | int) -> Tensor:
    """Converts a Python int to a [] int32 tensor; a tensor is returned unchanged."""
    return count if isinstance(count, Tensor) else torch.tensor(count, dtype=torch.int32)


def check_steps(caller: str, at_least: int = 1, **lengths: Any) -> None:
    """Checks that lengths are ints of at least `at_least`.

    Raises:
        ValueError: naming `caller`, the argument and the value.
    """
    for name, value in lengths.items():
        if not is_int(value) or value < at_least:
            bound = "> 0" if at_least else ">= 0"
            raise ValueError(
                f"{caller}: {name} must be an int {bound} (counted in optimizer updates), got {value!r}"
            )
