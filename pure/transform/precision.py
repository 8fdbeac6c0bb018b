"""Mixed precision: parameters are stored in float32 and cast to half precision for computation.

Micikevicius et al., "Mixed Precision Training", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.types import Tree

FIRST_SCALE = 2.0**16
"""Initial scale of a mean loss; if it is too large, one step is skipped for each halving."""


class LossScale(NamedTuple):
    """The state of dynamic loss scaling for float16, whose smallest number is 6e-8.

    Fields:
        scale: [] float32, factor of the mean loss before differentiation.
        good: [] int32, finite steps since the scale last changed.
    """

    scale: Tensor
    good: Tensor


def mixed(function: Callable, dtype: torch.dtype) -> Callable:
    """Returns a function that gets its params in `dtype`; gradients have the params' own dtype.

    Matrix products in bfloat16 are several times faster, but its 8 significant bits lose an update of a
    thousandth of the weight: so the params are float32, and only a copy is in half precision.

        f'(params, ...) = f(cast(params, dtype), ...)

    Args:
        function: (params, *rest) -> anything.
        dtype: torch.bfloat16 or torch.float16 (which needs loss scaling); torch.float32 computes in float32,
            and params in float64 stay float64.

    Returns:
        A function of the same arguments.

    Example:
        >>> mixed(lambda p: p["x"].dtype, torch.bfloat16)({"x": torch.ones(1)})
        torch.bfloat16

    Source: Micikevicius et al. 2018, section 3.1.
    """
    return partial(_mixed, function, dtype)


def cast_params(params: Tree, dtype: torch.dtype) -> Tree:
    """Casts the floating leaves of params for a computation in `dtype`; float32 does not narrow float64.

    Example:
        >>> params = {"a": torch.ones(1, dtype=torch.float64), "b": torch.ones(1, dtype=torch.bfloat16)}
        >>> [x.dtype for x in cast_params(params, torch.float32).values()]
        [torch.float64, torch.float32]
    """
    return tree.map(lambda x: tree.cast(x, cast_dtype(x.dtype, dtype)), params)


def cast_dtype(own: torch.dtype, compute: torch.dtype | None) -> torch.dtype:
    """Returns the dtype of a leaf of params in a computation.

    Args:
        own: the leaf's.
        compute: that of the computation; None casts nothing.

    Example:
        >>> cast_dtype(torch.float64, torch.float32), cast_dtype(torch.float32, torch.bfloat16)
        (torch.float64, torch.bfloat16)
        >>> cast_dtype(torch.int32, torch.bfloat16)
        torch.int32
    """
    if compute is None or not own.is_floating_point or (own, compute) == (torch.float64, torch.float32):
        return own
    return compute


def compute_dtype(function: Callable) -> torch.dtype | None:
    """Returns the dtype that `mixed` was given; None for a function that it did not return.

    Example:
        >>> compute_dtype(mixed(max, torch.bfloat16)), compute_dtype(max)
        (torch.bfloat16, None)
    """
    if isinstance(function, partial) and function.func is _mixed:
        return function.args[1]
    return None


def loss_scale(initial: float = FIRST_SCALE, device: torch.device | str = "cpu") -> LossScale:
    """Makes the initial state of loss scaling; too high a scale costs one skipped step for each halving.

    Raises:
        ValueError: if `initial` is not positive.
    """
    if not initial > 0:
        raise ValueError(f"loss_scale: expected a positive factor such as 2**16, got {initial}")
    return LossScale(
        torch.tensor(float(initial), device=device), torch.zeros((), dtype=torch.int32, device=device)
    )


def adjust(state: LossScale, finite: Tensor, *, period: int = 2000) -> LossScale:
    """Halves the scale after an overflow, doubles it after `period` finite steps.

    Args:
        state: the current LossScale.
        finite: [] bool, True if every gradient of this step was finite.
        period: finite steps before the next doubling.

    Returns:
        The next LossScale.

    Example:
        >>> adjust(loss_scale(1024.0), torch.tensor(False)).scale.item()
        512.0

    Source: Micikevicius et al. 2018, section 3.2.
    """
    good = torch.where(finite, state.good + 1, 0)
    grow = good >= period
    scale = torch.where(finite, torch.where(grow, state.scale * 2, state.scale), state.scale / 2)
    return LossScale(scale, torch.where(grow, 0, good).to(torch.int32))


def _mixed(function: Callable, dtype: torch.dtype, params: Tree, *rest: Any, **options: Any) -> Any:
    """Casts, then calls."""
    return function(cast_params(params, dtype), *rest, **options)
