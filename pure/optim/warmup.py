"""Schedules with a warm-up, composed of those in schedule.py.

Goyal et al., "Accurate, Large Minibatch SGD", 2017 (warm-up); Loshchilov and Hutter, "SGDR", 2017
(cosine, restarts); Hu et al., "MiniCPM", 2024 (WSD).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure.optim.base import Scalar
from pure.optim.schedule import (
    as_count,
    check_steps,
    constant_schedule,
    cosine_decay_schedule,
    join_schedules,
    linear_schedule,
)
from pure.types import Schedule

SHAPES = ("linear", "cosine", "sqrt")
"""Shapes of the decay of `wsd_schedule`."""


def warmup_constant_schedule(init_value: Scalar, peak_value: Scalar, warmup_steps: int) -> Schedule:
    """Rises linearly from `init_value` to `peak_value` in `warmup_steps` (0: none), then stays.

    Example:
        >>> [round(warmup_constant_schedule(0.0, 1.0, 4)(count).item(), 2) for count in (0, 2, 4, 9)]
        [0.0, 0.5, 1.0, 1.0]
    """
    return _warm_up(
        "warmup_constant_schedule", init_value, peak_value, warmup_steps, constant_schedule(peak_value)
    )


def warmup_cosine_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: int,
    decay_steps: int,
    end_value: Scalar = 0.0,
    exponent: Scalar = 1.0,
) -> Schedule:
    """Rises linearly, then decays along a cosine: the usual schedule of pretraining.

    Adam's first steps divide by the mean of only a few squared gradients; a small learning rate limits the
    error.

        value = init_value + (peak_value - init_value) count / warmup_steps,   count < warmup_steps
                cosine from peak_value to end_value over decay_steps - warmup_steps updates, after it

    Args:
        init_value: at count 0, often 0.
        peak_value: at count warmup_steps.
        warmup_steps: length of the rise, >= 0.
        decay_steps: length of the *whole* schedule, warm-up included, > warmup_steps.
        end_value: from count decay_steps on.
        exponent: of the cosine curve, > 0.

    Returns:
        Schedule, count -> [] float32.

    Steps:
        1. Check the lengths by `_check_longer(caller, decay_steps, warmup_steps)`; the caller is the name of
            this function.
        2. Final fraction of the peak: end_value / peak_value, and 0 if the peak is the number 0.
        3. Decay: `cosine_decay_schedule` over the updates that remain after the warm-up.
        4. Warm-up before it, by `_warm_up`.

    Edge cases: without warm-up the schedule is the decay alone; a peak of the number 0 gives 0 throughout.

    Raises:
        ValueError: if warmup_steps is negative or decay_steps <= warmup_steps.

    Example:
        Two steps of warm-up, four of decay; in the middle of the decay, half.

        >>> schedule = warmup_cosine_decay_schedule(0.0, 1.0, 2, 6)
        >>> [round(schedule(count).item(), 4) for count in (0, 1, 2, 4, 6)]
        [0.0, 0.5, 1.0, 0.5, 0.0]

    Source: Loshchilov and Hutter 2017, equation 5; Goyal et al. 2017, section 2.2 (warm-up).
    """
    # 1. Check.
    caller = "warmup_cosine_decay_schedule"
    _check_longer(caller, decay_steps, warmup_steps)
    # 2. Final fraction.
    zero_peak = not isinstance(peak_value, Tensor) and peak_value == 0
    alpha = 0.0 if zero_peak else end_value / peak_value
    # 3. Decay.
    decay = cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    # 4. Warm-up.
    return _warm_up(caller, init_value, peak_value, warmup_steps, decay)


def warmup_linear_decay_schedule(
    init_value: Scalar, peak_value: Scalar, warmup_steps: int, decay_steps: int, end_value: Scalar = 0.0
) -> Schedule:
    """Rises linearly, then decays linearly.

    Args:
        init_value, peak_value, end_value: at counts 0, warmup_steps and decay_steps.
        warmup_steps: length of the rise, >= 0.
        decay_steps: length of the whole schedule, > warmup_steps.

    Raises:
        ValueError: if warmup_steps is negative or decay_steps <= warmup_steps.

    Example:
        >>> schedule = warmup_linear_decay_schedule(0.0, 1.0, 2, 6)
        >>> [round(schedule(count).item(), 4) for count in (0, 1, 2, 3, 6, 9)]
        [0.0, 0.5, 1.0, 0.75, 0.0, 0.0]
    """
    caller = "warmup_linear_decay_schedule"
    _check_longer(caller, decay_steps, warmup_steps)
    decay = linear_schedule(peak_value, end_value, decay_steps - warmup_steps)
    return _warm_up(caller, init_value, peak_value, warmup_steps, decay)


def wsd_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: Scalar = 0.0,
    shape: str = "linear",
) -> Schedule:
    """Builds the warm-up, stable, decay schedule.

    The curve before the decay does not depend on the run's length, so training can continue from the plateau.

        value = peak_value + (end_value - peak_value) f(c / decay_steps),   c from the end of the plateau
        f(x) = x "linear",  (1 - cos(π x)) / 2 "cosine",  √x "sqrt"

    Args:
        init_value, peak_value, end_value: at the start, on the plateau, at the end.
        warmup_steps, stable_steps: lengths, >= 0.
        decay_steps: length of the decay *only*, > 0 (elsewhere decay_steps is the whole schedule).
        shape: of the decay: "linear", "cosine" or "sqrt" (1 - √x: fast first).

    Raises:
        ValueError: for a length out of range or an unknown shape.

    Example:
        >>> [round(wsd_schedule(0.0, 1.0, 2, 4, 4)(count).item(), 4) for count in (0, 1, 2, 6, 7, 10)]
        [0.0, 0.5, 1.0, 1.0, 0.75, 0.0]

    Source: Hu et al. 2024, section 4; the square root is from Hägele et al., "Scaling Laws and
    Compute-Optimal Training Beyond Fixed Training Durations", 2024.
    """
    check_steps("wsd_schedule", at_least=0, stable_steps=stable_steps)
    check_steps("wsd_schedule", decay_steps=decay_steps)
    if shape not in SHAPES:
        raise ValueError(f"wsd_schedule: shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    decay = partial(_decay, peak_value=peak_value, end_value=end_value, decay_steps=decay_steps, shape=shape)
    stable_decay = join_schedules([constant_schedule(peak_value), decay], [stable_steps])
    return _warm_up("wsd_schedule", init_value, peak_value, warmup_steps, stable_decay)


def _decay(
    count: Tensor | int, *, peak_value: Scalar, end_value: Scalar, decay_steps: int, shape: str
) -> Tensor:
    """Evaluates the decay of `wsd_schedule`, `count` updates after its start.

    After a long plateau a short decay lowers the loss as much as a cosine over the whole run does.

        value = peak_value + (end_value - peak_value) f(x),     x = clip(count, 0, decay_steps) / decay_steps
        f(x) = x "linear",  (1 - cos(π x)) / 2 "cosine",  √x "sqrt"

    Args:
        count: updates since the end of the plateau: [] int32, a Python int, or a vector of counts [n].
        peak_value, end_value: values at the start and at the end; a number or a [] tensor.
        decay_steps: length of the decay, updates, > 0.
        shape: "linear", "cosine" or "sqrt".

    Returns:
        [...] float32, in the shape of the count.

    Steps:
        1. Elapsed fraction x: `as_count(count)` as float32, clamped, and divided.
        2. f(x).
        3. Value between the two ends.

    Edge cases: before the decay peak_value, after it end_value.

    Example:
        A quarter of the decay: √(1/4) is half of the way from 1 to 0.

        >>> _decay(1, peak_value=1.0, end_value=0.0, decay_steps=4, shape="sqrt")
        tensor(0.5000)

    Source: Hu et al. 2024, section 4; the square root is from Hägele et al. 2024.
    """
    # 1. Elapsed fraction.
    x = as_count(count).to(torch.float32).clamp(0, decay_steps) / decay_steps
    # 2. Shape.
    if shape == "cosine":
        x = (1 - torch.cos(math.pi * x)) / 2
    elif shape == "sqrt":
        x = x.sqrt()
    # 3. Value.
    return peak_value + (end_value - peak_value) * x


def sgdr_schedule(cosine_kwargs: Iterable[dict[str, Any]]) -> Schedule:
    """Repeats warm-up and cosine decay; each restart lets the weights leave a local minimum.

    Args:
        cosine_kwargs: one dict of arguments of `warmup_cosine_decay_schedule` for each cycle, in order.

    Raises:
        ValueError: if there is no cycle, or as `warmup_cosine_decay_schedule`.

    Example:
        >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": 4}
        >>> twice = sgdr_schedule([cycle, {**cycle, "peak_value": 0.5}])
        >>> [round(twice(count).item(), 4) for count in (0, 2, 4, 6, 8)]
        [1.0, 0.5, 0.5, 0.25, 0.0]

    Source: Loshchilov and Hutter 2017.
    """
    cycles = list(cosine_kwargs)
    if not cycles:
        raise ValueError("sgdr_schedule: at least one cycle is needed, got none")
    ends = [sum(c["decay_steps"] for c in cycles[: i + 1]) for i in range(len(cycles) - 1)]
    return join_schedules([warmup_cosine_decay_schedule(**c) for c in cycles], ends)


def _warm_up(
    caller: str, init_value: Scalar, peak_value: Scalar, warmup_steps: int, rest: Schedule
) -> Schedule:
    """Builds a linear warm-up followed by `rest`."""
    check_steps(caller, at_least=0, warmup_steps=warmup_steps)
    if warmup_steps == 0:
        return rest
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), rest], [warmup_steps])


def _check_longer(caller: str, decay_steps: int, warmup_steps: int) -> None:
    """Checks that a schedule is longer than its warm-up."""
    check_steps(caller, at_least=0, warmup_steps=warmup_steps)
    check_steps(caller, decay_steps=decay_steps)
    if decay_steps <= warmup_steps:
        raise ValueError(
            f"{caller}: decay_steps is the length of the whole schedule and must be greater than "
            f"warmup_steps, got decay_steps {decay_steps} and warmup_steps {warmup_steps}; to decay for "
            f"{decay_steps} updates after the warm-up give decay_steps={decay_steps + warmup_steps}"
        )
