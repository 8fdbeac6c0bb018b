"""Exponential moving averages of updates (a transformation) and of parameters.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import (
    Scalar,
    bias_correction,
    increment,
    map_unzip,
    store_once,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction
from pure.optim.leafwise import elementwise
from pure.optim.same_shapes import check_same_shapes
from pure.types import GradientTransformation, Tree


class EmaState(NamedTuple):
    """The average, and the number of values in it."""

    count: Tensor  # type: ignore[assignment]  # [] int32  values averaged so far
    ema: Tree  # like the params


def ema(
    decay: Scalar, debias: bool = True, accumulator_dtype: torch.dtype | None = None
) -> GradientTransformation:
    """Replaces updates by their moving average. Given parameters instead of updates, it averages those.

        ema ← (1 - decay) x + decay ema;   out = ema / (1 - decay^count)  if debias, else ema

    Args:
        decay: in [0, 1); the average covers about 1 / (1 - decay) values.
        debias: correct the bias of starting at zero, so that the first average is the first value.
        accumulator_dtype: storage of the average; None stores it like the params.

    Returns:
        GradientTransformation with state EmaState(count, ema).

    Raises:
        ValueError: if decay is outside [0, 1).

    Example:
        Two values, 1 then 4, decay 0.5: (0.25 * 1 + 0.5 * 4) / 0.75 = 3.

        >>> average = ema(0.5)
        >>> _, state = average.update(torch.tensor(1.0), average.init(torch.tensor(0.0)))
        >>> average.update(torch.tensor(4.0), state)[0]
        tensor(3.)
    """
    check_fraction("ema", decay=decay)
    check_dtype("ema", accumulator_dtype=accumulator_dtype)
    return GradientTransformation(
        partial(ema_init, accumulator_dtype=accumulator_dtype),
        elementwise(partial(ema_update, decay=decay, debias=debias)),
    )


def ema_init(params: Tree, *, accumulator_dtype: torch.dtype | None = None) -> EmaState:
    """Initialises the average with zeros."""
    return EmaState(count=zero_count(params), ema=tree.zeros_like(params, dtype=accumulator_dtype))


def ema_update(
    updates: Tree, state: EmaState, params: Tree | None = None, *, decay: Scalar, debias: bool, **extra: Any
) -> tuple[Tree, EmaState]:
    """Moves the average towards `updates`, and returns it.

    An average of parameters has less of the noise of the last batches than the parameters themselves.

        ema ← (1 - decay) x + decay ema
        average = ema / (1 - decay^count)  if debias, else ema

    Args:
        updates: tree of values x.
        state: EmaState after count - 1 updates.
        params, extra: not used.
        decay: in [0, 1); a number or a [] tensor.
        debias: correct the bias of starting at zero.

    Returns:
        (averages, state): averages in the wider dtype of x and ema; the state keeps its dtypes.

    Steps:
        1. Count this update: `increment(state.count)`. With debias the correction [] is
            `bias_correction(decay, count, dtype)`, with the new count and dtype `tree.shared_dtype(updates)`.
        2. New ema of each leaf, in at least float32 (`upcast`).
        3. Average of each leaf: with debias, divided by the correction, which is cast to its dtype.
        4. Cast: the average to the wider dtype, ema to that of the old one. Trees of both by
            `map_unzip(2, leaf, updates, state.ema)`, whose leaf(x, ema) takes steps 2 to 4.

    Edge cases: with debias the first average is the first value.

    Example:
        (1 - 0.5) · 4 = 2; corrected for one value, 2 / 0.5.

        >>> first = ema_init(torch.tensor(0.0))
        >>> average, state = ema_update(torch.tensor(4.0), first, decay=0.5, debias=True)
        >>> average, state.ema
        (tensor(4.), tensor(2.))

    Source: Kingma and Ba, "Adam", 2015, section 3 (the correction).
    """
    del params, extra
    # 1. Count and correction.
    count = increment(state.count)
    correction = bias_correction(decay, count, tree.shared_dtype(updates)) if debias else None

    def leaf(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        # 2. Average, in the shape of the leaf.
        new = (1 - decay) * upcast(x) + decay * upcast(mean)
        # 3. Correction.
        out = new if correction is None else new / correction.to(new.dtype)
        # 4. Dtypes, and trees.
        return out.to(torch.promote_types(x.dtype, mean.dtype)), new.to(mean.dtype)

    out, mean = map_unzip(2, leaf, updates, state.ema)
    return out, EmaState(count=count, ema=mean)


def warmed_decay(decay: Scalar, count: Tensor) -> Tensor:
    """Computes the decay of a parameter average with warm-up: small at first, later `decay`.

    With a decay of 0.999 from the start, the average still contains 98% of the initial parameters after 20
    updates. With this warm-up it covers about a tenth of the updates so far, until that is 1 / (1 - decay);
    a short run then ends with an average of its last parameters.

        decay_t = min(decay, (1 + t) / (10 + t))

    Args:
        decay: in (0, 1), after the warm-up; 0.999 is reached after 9,000 updates, 0.99 after 900.
        count: t, [] int32, updates averaged so far: 0 at the first.

    Returns:
        [] float32.

    Example:
        >>> [round(warmed_decay(0.999, torch.tensor(t)).item(), 3) for t in (0, 20, 20_000)]
        [0.1, 0.7, 0.999]

    Source: the `num_updates` of TensorFlow's ExponentialMovingAverage.
    """
    t = count.to(torch.float32)
    ramp = (1 + t) / (10 + t)
    return store_once(ramp.clamp(max=decay))


def incremental_update(new_tensors: Tree, old_tensors: Tree, step_size: Scalar) -> Tree:
    """Updates an average of parameters: step_size new + (1 - step_size) old.

    An average over a thousand updates is often better than the last parameters, which have the noise of the
    last batches. Start it from a clone of the parameters, never from the same tensors.

    Args:
        new_tensors: tree, the current parameters.
        old_tensors: tree, the average so far.
        step_size: in [0, 1]: 1 - decay. A number or a [] tensor.

    Returns:
        The new average, in the dtypes of `old_tensors`.

    Raises:
        ValueError: if leaves differ in their shapes.

    Example:
        >>> incremental_update({"w": torch.tensor(10.0)}, {"w": torch.tensor(0.0)}, 0.1)
        {'w': tensor(1.)}
    """
    check_same_shapes(old_tensors, new_tensors)
    return tree.map(
        lambda new, old: (step_size * upcast(new) + (1.0 - step_size) * upcast(old)).to(old.dtype),
        new_tensors,
        old_tensors,
    )
