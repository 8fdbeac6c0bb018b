"""Estimate how long the demo takes, from the speed of matrix products on this processor now."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from pure.plural import count_noun
from pure.types import Model
from stages.run.mfu import flops_per_token

STEP_OVER_PRODUCTS: Mapping[torch.dtype, float] = MappingProxyType({torch.float32: 1.3, torch.bfloat16: 2.0})
"""Compute dtype -> time of a step of the demo's pretraining over that of products of its shapes and FLOPs.

The rest, such as norms and the optimizer, takes the same time in both: a larger share where products are
faster.
Measured: `benchmarks/README.md`, The demo.
"""

LATER_OVER_PRETRAINING = 337 / 330
"""Time of the stages after pretraining over that of the demo's 600 steps (`benchmarks/README.md`)."""

COMPILATION = 60.0
"""Seconds that compiling adds to pretraining; more on a busy machine."""

DEMO_STEPS = 600
"""Steps of pretraining that LATER_OVER_PRETRAINING is about."""

WINDOW = 0.1
"""Seconds of products of one measurement."""

WINDOWS = 5
"""Measurements whose median is taken, after one that is not counted: a processor at rest starts slowly."""


class Plan(NamedTuple):
    """Work of a demo.

    Fields:
        model: of pretraining.
        length: T, tokens of a row.
        tokens: of a step.
        steps: of pretraining; 0 if it is done.
        later: fraction of the later stages' steps; 0 for none.
        compiled: the steps are compiled.
        dtype: compute dtype.
    """

    model: Model
    length: int
    tokens: int
    steps: int
    later: float
    compiled: bool
    dtype: torch.dtype


def measure_products(width: int, inner: int, rows: int, dtype: torch.dtype, seconds: float = WINDOW) -> float:
    """Measures the speed of products [rows, width] · [width, inner].

    Args:
        width: hidden size of the model.
        inner: inner size of its feed-forward layers.
        rows: tokens of a step.
        dtype: compute dtype.
        seconds: length of each of WINDOWS measurements; at least one product is in each.

    Returns:
        FLOPs per second, the median.
    """
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, inner, dtype=dtype)
    speeds = []
    for _ in range(1 + WINDOWS):
        count, start = 0, time.monotonic()
        while not count or time.monotonic() - start < seconds:
            torch.mm(a, b)
            count += 1
        speeds.append(2.0 * rows * width * inner * count / (time.monotonic() - start))
    return statistics.median(speeds[1:])


def estimate_seconds(plan: Plan, speed: float) -> float:
    """Estimates the time of a demo.

        pretraining = STEP_OVER_PRODUCTS · FLOPs / speed, and the compilation
        later       = the share that was measured of 600 steps of pretraining

    Args:
        plan: what it computes.
        speed: FLOPs per second of products, see `measure_products`.

    Returns:
        Seconds.
    """
    products = flops_per_token(plan.model, plan.length) * plan.tokens / speed
    step = STEP_OVER_PRODUCTS[plan.dtype] * products
    compilation = COMPILATION if plan.compiled else 0.0
    pretraining = step * plan.steps + (compilation if plan.steps else 0.0)
    later = LATER_OVER_PRETRAINING * (step * DEMO_STEPS * min(1.0, plan.later) + compilation)
    return pretraining + (later if plan.later else 0.0)


def describe_estimate(seconds: float, dtype: torch.dtype, threads: int) -> str:
    """Says how long a demo takes.

    Example:
        >>> describe_estimate(700.0, torch.float32, 2)
        'about 12 minutes on this processor as it is now (float32, 2 threads; estimated from matrix products)'
        >>> describe_estimate(7300.0, torch.bfloat16, 1)
        'about 2.0 hours on this processor as it is now (bfloat16, 1 thread; estimated from matrix products)'
    """
    minutes = max(1, round(seconds / 60))
    span = count_noun(minutes, "minute") if minutes < 100 else f"{seconds / 3600:.1f} hours"
    kind = str(dtype).removeprefix("torch.")
    return (
        f"about {span} on this processor as it is now ({kind}, {count_noun(threads, 'thread')}; estimated "
        "from matrix products)"
    )
