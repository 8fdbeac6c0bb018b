"""Reduction of the learning rate on a plateau of the loss; the last link of a chain, after the learning rate.

Shape letters: none; one factor for all leaves.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import Scalar, increment, upcast, zero_count
from pure.optim.check import check_number
from pure.optim.leafwise import elementwise
from pure.types import GradientTransformation, Tree


class ReduceLROnPlateauState(NamedTuple):
    """The current factor, and the statistics that change it."""

    scale: Tensor  # [] float  current factor on the updates
    best_value: Tensor  # [] float  lowest average loss so far
    plateau_count: Tensor  # [] int32  averages without improvement, in a row
    cooldown_count: Tensor  # [] int32  averages still to be ignored
    count: Tensor  # type: ignore[assignment]  # [] int32  losses in the current average
    avg_value: Tensor  # [] float  the current average


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Scalar = 0.0,
) -> GradientTransformation:
    """Multiplies updates by a factor, reduced each time the loss has not improved for `patience` averages.

        u' = s u;  s <- max(factor s, min_scale) after `patience` averages m that are no improvement,
        m < (1 - rtol) best - atol

    The loss is passed as `update(updates, state, params, value=loss)`; averages of `accumulation_size` losses
    are compared.

    Args:
        factor: by which the scale is multiplied on a plateau, in (0, 1).
        patience: averages without improvement before a reduction, >= 1.
        rtol, atol: an improvement is average < (1 - rtol) best - atol; rtol in [0, 1], atol >= 0, not both 0.
        cooldown: averages that are ignored after a reduction, >= 0.
        accumulation_size: losses in one average, >= 1.
        min_scale: lower bound of the scale (the product of all reductions).

    Returns:
        GradientTransformation with state ReduceLROnPlateauState.

    Raises:
        ValueError: for an argument out of range; at the update, if `value` is missing.

    Example:
        The second loss is no better than the first: with patience 1 the scale becomes a half.

        >>> opt = reduce_on_plateau(factor=0.5, patience=1)
        >>> g = torch.tensor(1.0)
        >>> _, state = opt.update(g, opt.init(g), value=torch.tensor(2.0))
        >>> opt.update(g, state, value=torch.tensor(2.0))[0]
        tensor(0.5000)

    Source: optax.contrib.reduce_on_plateau. Differs from it: the state is float32 at least (with bfloat16
    params optax keeps the best loss in bfloat16, whose steps are wider than rtol).
    """
    check_number("reduce_on_plateau", min_scale=min_scale)
    _check_ranges(factor, patience, rtol, atol, cooldown, accumulation_size)
    return GradientTransformation(
        plateau_init,
        elementwise(
            partial(
                plateau_update,
                factor=factor,
                patience=patience,
                rtol=rtol,
                atol=atol,
                cooldown=cooldown,
                accumulation_size=accumulation_size,
                min_scale=min_scale,
            )
        ),
    )


def plateau_init(params: Tree) -> ReduceLROnPlateauState:
    """Initialises the scale with 1 and the best loss with infinity."""
    zero_int = zero_count(params)
    zero = torch.zeros_like(zero_int, dtype=tree.shared_dtype(params))
    return ReduceLROnPlateauState(
        scale=zero + 1.0,
        best_value=zero + float("inf"),
        plateau_count=zero_int,
        cooldown_count=zero_int.clone(),
        count=zero_int.clone(),
        avg_value=zero,
    )


def plateau_update(
    updates: Tree,
    state: ReduceLROnPlateauState,
    params: Tree | None = None,
    *,
    value: Tensor | float | None = None,
    factor: float,
    patience: int,
    rtol: float,
    atol: float,
    cooldown: int,
    accumulation_size: int,
    min_scale: Scalar,
    **extra: Any,
) -> tuple[Tree, ReduceLROnPlateauState]:
    """Adds one loss to the average, evaluates the average when it is complete, and scales the updates.

    Args:
        updates: tree of updates.
        state: ReduceLROnPlateauState.
        params, extra: not used.
        value: [] the loss of this step.
        factor, patience, rtol, atol, cooldown, accumulation_size, min_scale: as in `reduce_on_plateau`.

    Returns:
        (updates, state).

    Raises:
        ValueError: if value is missing.

    Steps:
        1. Add the loss to the average.
        2. If the average is complete, decide: improved, cooling down, or one more without improvement.
        3. Scale the updates.
    """
    del params, extra
    if value is None:
        raise ValueError(
            "reduce_on_plateau: expected the loss, got None; call update(grads, state, params, value=loss)"
        )
    # 1. Average.
    count = increment(state.count)
    average = (state.count * state.avg_value + value) / count
    updated = state._replace(count=count, avg_value=average.to(state.avg_value.dtype))
    # 2. Decide.
    decided = _decide(updated, factor, patience, rtol, atol, cooldown, min_scale)
    state = tree.where(count == accumulation_size, decided, updated)
    # 3. Scale.
    return tree.map(lambda g: (state.scale * upcast(g)).to(g.dtype), updates), state


def _decide(
    state: ReduceLROnPlateauState,
    factor: float,
    patience: int,
    rtol: float,
    atol: float,
    cooldown: int,
    min_scale: Scalar,
) -> ReduceLROnPlateauState:
    """Computes the state after a complete average; the next average starts empty."""
    improved = state.avg_value < (1 - rtol) * state.best_value - atol
    waited = torch.where(improved, 0, increment(state.plateau_count))
    cooling = state.cooldown_count > 0
    reduce = (waited == patience) & ~cooling
    scale = torch.where(reduce, state.scale * factor, state.scale).clamp(min=min_scale)
    return ReduceLROnPlateauState(
        scale=torch.where(cooling, state.scale, scale),
        best_value=torch.where(improved, state.avg_value, state.best_value),
        plateau_count=torch.where(cooling | reduce, 0, waited),
        cooldown_count=torch.where(
            cooling, state.cooldown_count - 1, torch.where(reduce, cooldown, 0).to(torch.int32)
        ),
        count=torch.zeros_like(state.count),
        avg_value=torch.zeros_like(state.avg_value),
    )


def _check_ranges(
    factor: float, patience: int, rtol: float, atol: float, cooldown: int, accumulation_size: int
) -> None:
    """Checks that the arguments of `reduce_on_plateau` are in range."""
    numbers = {
        "factor": factor,
        "patience": patience,
        "rtol": rtol,
        "atol": atol,
        "cooldown": cooldown,
        "accumulation_size": accumulation_size,
    }
    check_number("reduce_on_plateau", **numbers)
    for name, ok, want, got in (
        ("factor", 0 < factor < 1, "in (0, 1)", factor),
        ("patience", patience >= 1, ">= 1", patience),
        ("rtol", 0 <= rtol <= 1, "in [0, 1]", rtol),
        ("atol", atol >= 0, ">= 0", atol),
        ("rtol + atol", rtol + atol > 0, "> 0", rtol + atol),
        ("cooldown", cooldown >= 0, ">= 0", cooldown),
        ("accumulation_size", accumulation_size >= 1, ">= 1", accumulation_size),
    ):
        if not ok:
            raise ValueError(f"reduce_on_plateau: {name} must be {want}, got {got}")
