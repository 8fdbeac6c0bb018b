"""Scaling of matrix updates by their shapes: the part of Muon that makes one learning rate fit all layers.

Shape letters: O outputs, I inputs of a matrix [O, I].

Jordan, "Muon: An optimizer for hidden layers in neural networks", 2024 (the default); Liu et al., "Muon
is Scalable for LLM Training", 2025 (consistent_rms).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from pure import tree
from pure.optim.axes import Dimensions, MuonDimensionNumbers, input_and_output, resolve
from pure.optim.base import EmptyState, empty_init, upcast
from pure.optim.check import check_not_negative
from pure.optim.leafwise import leafwise
from pure.types import GradientTransformation, Tree


def scale_by_shape(
    weight_dimension_numbers: Dimensions | None = None, consistent_rms: float | None = None
) -> GradientTransformation:
    """Scales the update of each matrix by its shape, so that one learning rate fits all layers.

        √max(1, O / I),  or with consistent_rms  √max(I, O) consistent_rms

    Args:
        weight_dimension_numbers: as in `muon`, for a tree of matrices only.
        consistent_rms: root mean square of the updates; None uses the first formula.

    Returns:
        GradientTransformation with state EmptyState().

    Raises:
        ValueError: if consistent_rms is negative; at the update, if a leaf is not a matrix.

    Example:
        An orthogonal matrix [4, 1] has columns of length 1; the factor √4 makes its outputs as large as for
        [1, 1].

        >>> scale_by_shape().update(torch.ones(4, 1), EmptyState())[0][0]
        tensor([2.])
    """
    check_not_negative("scale_by_shape", optional=True, consistent_rms=consistent_rms)
    dims = MuonDimensionNumbers() if weight_dimension_numbers is None else weight_dimension_numbers
    update = partial(scale_by_shape_update, dimensions=dims, consistent_rms=consistent_rms)
    return GradientTransformation(empty_init, leafwise(update))


def scale_by_shape_update(
    updates: Tree,
    state: EmptyState,
    params: Tree | None = None,
    *,
    dimensions: Dimensions,
    consistent_rms: float | None,
    **extra: Any,
) -> tuple[Tree, EmptyState]:
    """Multiplies each leaf by the factor of `scale_by_shape`.

    Args:
        updates: tree of matrices.
        state: EmptyState().
        params, extra: not used.
        dimensions, consistent_rms: as in `scale_by_shape`.

    Returns:
        (updates, state).
    """
    del params, extra
    values, spec = tree.flatten(updates)
    scaled = []
    for x, dims in zip(values, resolve(dimensions, updates), strict=True):
        inputs, outputs = (math.prod([x.shape[i] for i in axes]) for axes in input_and_output(x, dims))
        factor = math.sqrt(max(1, outputs / inputs))
        if consistent_rms is not None:
            factor = math.sqrt(max(inputs, outputs)) * consistent_rms
        scaled.append((factor * upcast(x)).to(x.dtype))
    return tree.unflatten(spec, scaled), state
