"""Scaling of each leaf by a root mean square: of the update, to bound it, or of the parameter.

Shape letters: none; a leaf is one block, whatever its shape.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, sections 6 and 8.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import EmptyState, Scalar, empty_init, safe_sqrt, store_once, upcast
from pure.optim.check import check_not_negative
from pure.optim.leafwise import leafwise
from pure.optim.same_shapes import check_same_shapes, require_params
from pure.types import GradientTransformation, Tree


def clip_by_block_rms(threshold: Scalar) -> GradientTransformation:
    """Scales each leaf down to root mean square `threshold` if its own is larger.

        u ← u / max(1, RMS(u) / threshold)

    Args:
        threshold: largest RMS of a leaf, >= 0; Adafactor uses 1. A number or a [] tensor.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: if threshold is a negative number or not finite.

    Example:
        (1, 7) has RMS √25 = 5.

        >>> clip_by_block_rms(1.0).update({"a": torch.tensor([1.0, 7.0])}, EmptyState())[0]
        {'a': tensor([0.2000, 1.4000])}

    Source: Shazeer and Stern 2018, algorithm 4, update clipping.
    """
    check_not_negative("clip_by_block_rms", threshold=threshold)
    update = partial(clip_by_block_rms_update, threshold=threshold)
    return GradientTransformation(empty_init, leafwise(update))


def clip_by_block_rms_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, *, threshold: Scalar, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Divides each leaf by max(1, RMS / threshold); an infinite or NaN coordinate makes its leaf NaN.

    With threshold 0 a leaf of zeros stays 0, and in optax it becomes NaN.
    """
    del params, extra

    def leaf(u: Tensor) -> Tensor:
        x = upcast(u)
        rms = safe_sqrt(x.square().mean())
        ratio = torch.where(rms <= threshold, 1.0, rms / threshold)
        return (x / store_once(ratio)).to(u.dtype)

    return tree.map(leaf, updates), state


def scale_by_param_block_rms(min_scale: Scalar = 1e-3) -> GradientTransformation:
    """Multiplies the update of each leaf by the root mean square of its parameters.

    A learning rate is then a relative step: 0.01 changes a matrix by about 1% of its size.

        u ← u max(RMS(p), min_scale)

    Args:
        min_scale: smallest factor, so that parameters which start at 0 move; >= 0.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: if min_scale is negative; at the update, if params are missing.

    Example:
        >>> params = torch.tensor([1.0, 7.0])
        >>> scale_by_param_block_rms().update(torch.tensor([0.1, 0.2]), EmptyState(), params)[0]
        tensor([0.5000, 1.0000])

    Source: Shazeer and Stern 2018, section 8.
    """
    check_not_negative("scale_by_param_block_rms", min_scale=min_scale)
    update = partial(param_block_rms_update, min_scale=min_scale)
    return GradientTransformation(empty_init, leafwise(update))


def param_block_rms_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, *, min_scale: Scalar, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Multiplies each leaf by max(RMS of its parameters, min_scale).

    Args:
        updates: tree of updates.
        state: EmptyState().
        params: like updates.
        min_scale: as in `scale_by_param_block_rms`.
        extra: not used.

    Returns:
        (updates, state).

    Raises:
        ValueError: if params are missing, or differ in shape.
    """
    del extra
    params = require_params("scale_by_param_block_rms", params)
    check_same_shapes(updates, params)

    def leaf(u: Tensor, p: Tensor) -> Tensor:
        rms = safe_sqrt(upcast(p).square().mean())
        return (upcast(u) * store_once(rms.clamp(min=min_scale))).to(torch.promote_types(u.dtype, p.dtype))

    return tree.map(leaf, updates, params), state
