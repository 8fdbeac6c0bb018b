"""Factored second moments: a matrix of mean squares kept as its row means and column means.

Shape letters: R rows, C columns: the second largest and the largest axis of a leaf; other axes are a batch.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, algorithm 4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.number import is_int
from pure.optim.base import Scalar, increment, store_once, upcast, zero_count
from pure.optim.check import check_not_negative, check_number
from pure.optim.leafwise import leafwise
from pure.optim.same_shapes import check_same_shapes, require_params
from pure.types import GradientTransformation, Tree

Decay = Callable[[Tensor, Any], Tensor]
"""(count [] int32, decay_rate) -> decay of the mean of squares in this update, []."""


class FactoredState(NamedTuple):
    """Mean squares of the gradients: factored in v_row and v_col, or exact in v (unused: shape [1])."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    v_row: Tree  # mean over the columns: the leaf's shape without its axis C
    v_col: Tree  # mean over the rows: the leaf's shape without its axis R
    v: Tree  # like the leaf, where it is not factored


class _Axes(NamedTuple):
    """The two axes of a leaf that are factored."""

    rows: int
    columns: int


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Scalar = 0.8,
    step_offset: Scalar = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Scalar = 1e-30,
    decay_rate_fn: Decay | None = None,
) -> GradientTransformation:
    """Builds Adafactor's division by the root mean square; `factored_update` has the formulas.

    For a matrix [R, C] it keeps R + C numbers where Adam keeps R C.

    Args:
        factored: False keeps the exact mean squares of every leaf.
        decay_rate: exponent of the decay, > 0; see `decay_rate_pow`.
        step_offset: subtracted from the count: pre-training's updates, if fine-tuning continues its count.
        min_dim_size_to_factor: leaves are factored if their two largest axes have at least this length, >= 1.
        epsilon: added to squares, >= 0.
        decay_rate_fn: (count - step_offset, decay_rate) -> decay; None takes `decay_rate_pow`.

    Returns:
        GradientTransformation with state FactoredState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for a number out of range; at the update, if params are missing or the state was created
            with other leaves factored.

    Example:
        The squares [[1, 4], [4, 16]] are the outer product of their row means (2.5, 10) and column means
        (2.5, 10), divided by the mean 6.25, so the factored form is exact here.

        >>> opt = scale_by_factored_rms(min_dim_size_to_factor=2)
        >>> g = torch.tensor([[1.0, -2.0], [2.0, -4.0]])
        >>> opt.update(g, opt.init(g), g)[0]
        tensor([[ 1., -1.],
                [ 1., -1.]])

    Source: Shazeer and Stern 2018, algorithm 4; axes, default and order of operations as in optax.
    """
    check_number("scale_by_factored_rms", step_offset=step_offset)
    check_not_negative("scale_by_factored_rms", decay_rate=decay_rate, epsilon=epsilon)
    if not is_int(min_dim_size_to_factor) or min_dim_size_to_factor < 1:
        raise ValueError(
            "scale_by_factored_rms: min_dim_size_to_factor must be an int >= 1, got "
            f"{min_dim_size_to_factor!r}; factored=False factors no leaf; under inject_hyperparams, list it "
            "in static_args"
        )
    shape_rule: dict[str, Any] = {"factored": factored, "min_dim_size_to_factor": min_dim_size_to_factor}
    update = partial(
        factored_update,
        decay_rate=decay_rate,
        step_offset=step_offset,
        epsilon=epsilon,
        decay_rate_fn=decay_rate_pow if decay_rate_fn is None else decay_rate_fn,
        **shape_rule,
    )
    return GradientTransformation(partial(factored_init, **shape_rule), leafwise(update))


def decay_rate_pow(count: Tensor, exponent: Scalar = 0.8) -> Tensor:
    """Computes Adafactor's decay, 1 - (count + 1)^-exponent: 0 at the first update, later close to 1.

    Args:
        count: [] int32, updates so far; a negative one (before the offset) counts as 0.
        exponent: > 0.

    Returns:
        [] float32.

    Example:
        >>> decay_rate_pow(torch.tensor(9, dtype=torch.int32), 1.0)
        tensor(0.9000)

    Source: Shazeer and Stern 2018, section 7.2. Differs from optax: negative counts (NaN there).
    """
    return 1.0 - (count.clamp(min=0) + 1).to(torch.float32) ** (-exponent)


def factored_init(params: Tree, *, factored: bool, min_dim_size_to_factor: int) -> FactoredState:
    """Initialises the mean squares with zeros."""

    def zeros(p: Tensor, part: int) -> Tensor:
        return p.new_zeros(_shapes(p, _axes(p, factored, min_dim_size_to_factor))[part])

    v_row, v_col, v = (tree.map(partial(zeros, part=i), params) for i in range(3))
    return FactoredState(zero_count(params), v_row, v_col, v)


def factored_update(
    updates: Tree,
    state: FactoredState,
    params: Tree | None = None,
    *,
    factored: bool,
    decay_rate: Scalar,
    step_offset: Scalar,
    min_dim_size_to_factor: int,
    epsilon: Scalar,
    decay_rate_fn: Decay,
    **extra: Any,
) -> tuple[Tree, FactoredState]:
    """Divides each leaf by the root of its mean squares, exact or as a product of row and column means.

        d = decay_rate_fn(count - step_offset, decay_rate)
        v ← d v + (1 - d) (g² + epsilon);              update = g / √v
        factored: v_row, v_col likewise, of the means over columns and over rows;
                  update = g / √(v_row v_col / mean(v_row))

    Args:
        updates: tree of gradients g.
        state: FactoredState.
        params: like updates; their shapes and dtypes are read.
        factored, decay_rate, step_offset, min_dim_size_to_factor, epsilon, decay_rate_fn: as in
            `scale_by_factored_rms`.
        extra: not used.

    Returns:
        (updates, state); updates are not negated.

    Raises:
        ValueError: if params are missing, shapes differ, or other leaves are factored in the state.

    Steps:
        1. The decay, once for all leaves.
        2. A factored leaf: two means, and their product.
        3. Another leaf: its own mean squares.

    Source: Shazeer and Stern 2018, algorithm 4.
    """
    del extra
    params = require_params("scale_by_factored_rms", params)
    check_same_shapes(updates, params)
    # 1. Decay.
    decay = store_once(torch.as_tensor(decay_rate_fn(state.count - step_offset, decay_rate)))

    def average(old: Tensor, new: Tensor) -> Tensor:
        return decay * upcast(old) + (1.0 - decay) * new

    def update_leaf(g: Tensor, v_row: Tensor, v_col: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        axes = _axes(p, factored, min_dim_size_to_factor)
        _check_state(axes, p, v_row, v_col, v)
        x = upcast(g)
        squares = x.square() + epsilon
        if axes is not None:
            # 2. Factored.
            row, column = average(v_row, squares.mean(axes.columns)), average(v_col, squares.mean(axes.rows))
            # v_row lacks the column axis, so a row axis after it has moved one to the left.
            row_axis = axes.rows - 1 if axes.rows > axes.columns else axes.rows
            row_factor = (row / row.mean(row_axis, keepdim=True)).rsqrt()
            step = x * row_factor.unsqueeze(axes.columns) * column.rsqrt().unsqueeze(axes.rows)
            new = (row, column, torch.zeros_like(v))
        else:
            # 3. Exact.
            exact = average(v, squares)
            step = x * exact.rsqrt()
            new = (torch.zeros_like(v_row), torch.zeros_like(v_col), exact)
        old = (v_row, v_col, v)
        return step.to(g.dtype), *[n.to(o.dtype) for n, o in zip(new, old, strict=True)]

    # Each leaf becomes a tuple (step, v_row, v_col, v); then one tree is made of each of the four.
    results = tree.map(update_leaf, updates, state.v_row, state.v_col, state.v, params)
    steps, v_row, v_col, v = (tree.map(lambda _, leaf, i=i: leaf[i], updates, results) for i in range(4))
    return steps, FactoredState(increment(state.count), v_row, v_col, v)


def _axes(p: Tensor, factored: bool, min_size: int) -> _Axes | None:
    """Selects the two largest axes, the later of equal ones as columns; None if they are too short."""
    if not factored or p.ndim < 2:
        return None
    *_, rows, columns = sorted(range(p.ndim), key=lambda i: p.shape[i])
    return None if p.shape[rows] < min_size else _Axes(rows, columns)


def _shapes(p: Tensor, axes: _Axes | None) -> tuple[list[int], list[int], list[int]]:
    """Computes the shapes of v_row, v_col and v."""
    shape = list(p.shape)
    if axes is None:
        return [1], [1], shape
    without = [shape[:axis] + shape[axis + 1 :] for axis in (axes.columns, axes.rows)]
    return without[0], without[1], [1]


def _check_state(axes: _Axes | None, p: Tensor, *parts: Tensor) -> None:
    """Refuses mean squares of other shapes, which would be broadcast."""
    expected, got = [list(s) for s in _shapes(p, axes)], [list(x.shape) for x in parts]
    if expected != got:
        raise ValueError(
            f"scale_by_factored_rms: for a leaf {list(p.shape)} expected v_row, v_col, v of shapes {expected}"
            f", got {got}; create the state with the same factored and min_dim_size_to_factor"
        )
