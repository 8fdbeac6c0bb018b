"""Gradient clipping, by global norm and by value.

Pascanu et al., "On the difficulty of training recurrent neural networks", 2013, algorithm 1 (by norm).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import EmptyState, Scalar, empty_init, safe_sqrt, store_once, upcast
from pure.optim.check import check_not_negative
from pure.optim.leafwise import elementwise
from pure.types import GradientTransformation, Tree


def clip_by_global_norm(max_norm: Scalar) -> GradientTransformation:
    """Rescales the gradient, as one vector of all leaves, to norm `max_norm` if its norm is larger.

    The direction is unchanged, and a bad batch takes at most a step of ordinary size.

        g ← g min(1, max_norm / ‖g‖)

    Args:
        max_norm: largest norm, >= 0; 1.0 is common for language models. A number or a [] tensor.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: if max_norm is a negative number or not finite.

    Example:
        (3, 4) has norm 5.

        >>> clip_by_global_norm(1.0).update({"a": torch.tensor([3.0, 4.0])}, EmptyState())[0]
        {'a': tensor([0.6000, 0.8000])}

    Source: Pascanu et al. 2013, algorithm 1.
    """
    check_not_negative("clip_by_global_norm", max_norm=max_norm)
    update = partial(clip_by_global_norm_update, max_norm=max_norm)
    return GradientTransformation(empty_init, elementwise(update, _norm_is_known))


def clip_by_global_norm_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, *, max_norm: Scalar, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Multiplies by max_norm / norm where the norm is above `max_norm`, else by 1.

    One long gradient, of a bad batch, would move the params further than a hundred usual steps.

        u ← u min(1, max_norm / norm),     norm = √(Σ over leaves and elements u²)

    optax divides every element by the norm; one factor for all differs in the last bit, and saves a tenth of
    the time of a compiled AdamW. With max_norm 0 a gradient of zeros stays 0, and in optax it becomes NaN.

    Args:
        updates: tree of gradients u.
        state: EmptyState().
        params: not used.
        max_norm: largest norm, >= 0; a number or a [] tensor.
        extra: `grad_norm` [] float32, if given, replaces the norm: `updates` may then be a part of the tree.
            (A chain passes it only until a link changes the updates.)

    Returns:
        (updates, state): each leaf in its own dtype; the state as it is.

    Steps:
        1. Norm []: the given `grad_norm`, if there is one and it is not None, else `_global_norm(updates)`.
        2. Factor []: 1 where norm <= max_norm, else max_norm / norm (by `torch.where`; divide by 1 in the
            first case, as the norm may be 0). Keep it by `store_once(factor)`.
        3. Multiply each leaf (`tree.map`), in at least float32 (`upcast`), and cast back.

    Edge cases: an infinite gradient gives NaN in its coordinates and 0 elsewhere, one NaN makes all NaN:
    check for finite gradients first (`apply_if_finite`).

    Example:
        The norm is given as 10, so the factor is 1/10.

        >>> g, norm = torch.tensor([3.0, 4.0]), torch.tensor(10.0)
        >>> clip_by_global_norm_update(g, EmptyState(), max_norm=1.0, grad_norm=norm)[0]
        tensor([0.3000, 0.4000])

    Source: Pascanu et al. 2013, algorithm 1.
    """
    del params
    # 1. Norm [].
    norm = extra["grad_norm"] if extra.get("grad_norm") is not None else _global_norm(updates)
    # 2. Factor [].
    short = norm <= max_norm
    factor = store_once(torch.where(short, 1.0, max_norm / torch.where(short, 1.0, norm)))
    # 3. Multiply.
    return tree.map(lambda g: (upcast(g) * factor).to(g.dtype), updates), state


def _global_norm(updates: Tree) -> Tensor:
    """The norm of all leaves together [], as `tree.norm`; its derivative at 0 is 0."""
    dtype = tree.shared_dtype(updates)
    return safe_sqrt(torch.stack([x.to(dtype).square().sum() for x in tree.leaves(updates)]).sum())


def _norm_is_known(raw: bool) -> bool:
    """Decides if clipping by norm is elementwise: only of raw gradients, whose norm is `grad_norm`."""
    return raw


def clip(max_delta: Scalar) -> GradientTransformation:
    """Clips every coordinate to [-max_delta, max_delta] (clipping by value).

    Args:
        max_delta: >= 0; a number or a [] tensor.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: if max_delta is a negative number or not finite.

    Example:
        >>> clip(1.0).update(torch.tensor([-3.0, 0.5]), EmptyState())[0]
        tensor([-1.0000,  0.5000])
    """
    check_not_negative("clip", max_delta=max_delta)
    return GradientTransformation(empty_init, elementwise(partial(clip_update, max_delta=max_delta)))


def clip_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, *, max_delta: Scalar, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Clips every coordinate; NaN stays NaN."""
    del params, extra

    def clamp(g: Tensor) -> Tensor:
        if isinstance(max_delta, Tensor):
            return torch.maximum(torch.minimum(g, max_delta), -max_delta).to(g.dtype)
        return g.clamp(-max_delta, max_delta)

    return tree.map(clamp, updates), state
