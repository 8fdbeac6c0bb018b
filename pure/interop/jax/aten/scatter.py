"""Writing along an axis: scatter, its reductions, and slices added, replaced or filled.

An index out of range writes NaN (see `indexing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pure.interop.jax.aten.places import index_grid, is_batched, poison
from pure.interop.jax.aten.result import Entry, Out, is_float, to_dtype


def _scatter(out: Out, x: Any, dim: int, index: Any, source: Any) -> Any:
    """Writes along an axis at indices. Written twice, a place keeps one of the values."""
    return _write_along(out, x, dim, index, source, "set")


def _scatter_add(out: Out, x: Any, dim: int, index: Any, source: Any) -> Any:
    """Adds along an axis at indices."""
    if is_float(out.dtype) and x.ndim and is_batched(x, dim, index) and source.shape == index.shape:
        bad = (index < 0) | (index >= x.shape[dim])
        values = poison(source.astype(out.dtype), bad)
        read = partial(jnp.take_along_axis, indices=jnp.where(bad, 0, index), axis=dim, mode="fill")
        (added,) = jax.linear_transpose(read, x)(values)
        return x + added
    return _write_along(out, x, dim, index, source, "add")


def _scatter_reduce(
    out: Out, x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """Combines along an axis at indices.

    Args:
        out: the traced result.
        x: array.
        dim, index, source: as in scatter.
        reduce: "sum", "mean", "prod", "amax" or "amin". Of equals, each gets the same part of the gradient of
            an extreme; that of "prod" is jax's, which refuses it.
        include_self: False combines the sources only, where there are any.

    Returns:
        x, combined.
    """
    place = x.at[index_grid(index, dim)]
    counts = jnp.zeros(x.shape, x.dtype).at[index_grid(index, dim)].add(1)
    if not include_self:
        x = jnp.where(counts > 0, _identity_of(reduce, x.dtype), x)
        place = x.at[index_grid(index, dim)]
    if reduce in ("sum", "mean"):
        total = _write_along(out, x, dim, index, source, "add")
        count = jnp.maximum(counts + include_self, 1)
        if reduce == "sum":
            return total
        return (total / count if is_float(out.dtype) else jnp.floor_divide(total, count)).astype(out.dtype)
    source = source[tuple(slice(0, n) for n in index.shape)].astype(x.dtype)
    if reduce == "prod":
        return place.multiply(source)
    return _scatter_extreme(x, source, index_grid(index, dim), reduce == "amax", include_self)


def _identity_of(reduce: str, dtype: Any) -> Any:
    """The number that a reduction starts from."""
    if reduce in ("amax", "amin"):
        bounds = (-np.inf, np.inf) if is_float(dtype) else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return np.asarray(bounds[reduce == "amin"], dtype)
    return np.asarray(reduce == "prod", dtype)


def _scatter_extreme(x: Any, source: Any, places: tuple, largest: bool, include_self: bool) -> Any:
    """The extreme of x and the sources at their places, differentiable: jax has no derivative of its own."""
    fixed_x, fixed = lax.stop_gradient(x), lax.stop_gradient(source)
    value = fixed_x.at[places].max(fixed) if largest else fixed_x.at[places].min(fixed)
    if not is_float(x.dtype):
        return value
    chosen = (fixed == value[places]).astype(x.dtype)
    chosen_x = (fixed_x == value).astype(x.dtype) * include_self
    share = jnp.maximum(chosen_x.at[places].add(chosen), 1)
    own = chosen_x if include_self else (jnp.zeros_like(x).at[places].add(1) == 0).astype(x.dtype)
    moved = own / share * _zero_with_gradient(x)
    return value + moved.at[places].add(chosen / share[places] * _zero_with_gradient(source))


def _zero_with_gradient(x: Any) -> Any:
    """0, whose derivative is 1."""
    return jnp.where(jnp.isfinite(x), x - lax.stop_gradient(x), 0)


def _index_add(out: Out, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    """Adds slices, times alpha, along an axis."""
    value = source.astype(out.dtype)
    return _write_slices(x, dim, index, value if alpha == 1 else value * to_dtype(alpha, out.dtype), True)


def _index_copy(out: Out, x: Any, dim: int, index: Any, source: Any) -> Any:
    """Replaces slices along an axis."""
    return _write_slices(x, dim, index, source.astype(out.dtype), False)


def _index_fill(out: Out, x: Any, dim: int, index: Any, value: Any) -> Any:
    """Fills slices along an axis with one value."""
    axis = dim % max(x.ndim, 1)
    shape = (*x.shape[:axis], index.size, *x.shape[axis + 1 :])
    filled = jnp.broadcast_to(to_dtype(value, out.dtype), shape)
    return _write_slices(
        x, dim, jnp.where(index < 0, index + x.shape[axis] if x.ndim else 0, index), filled, False
    )


def _write_slices(x: Any, dim: int, index: Any, values: Any, add: bool) -> Any:
    """Writes or adds slices along an axis at the indices of one axis."""
    if not x.ndim:
        return x + jnp.sum(values) if add else jnp.reshape(values, ())
    axis = dim % x.ndim
    places = jnp.reshape(index, -1)
    bad = (places < 0) | (places >= x.shape[axis])
    where: list[Any] = [slice(None)] * x.ndim
    where[axis] = jnp.where(bad, 0, places)
    values = poison(values, jnp.reshape(bad, (-1, *[1] * (x.ndim - axis - 1))))
    at = x.at[tuple(where)]
    return at.add(values) if add else at.set(values)


def _write_along(out: Out, x: Any, dim: int, index: Any, source: Any, how: str) -> Any:
    """Writes or adds `source` (an array of at least the shape of the index, or a number)."""
    if not x.ndim:
        x, index = jnp.reshape(x, 1), jnp.reshape(index, -1)
        source = source if not hasattr(source, "ndim") else jnp.reshape(source, -1)
        dim = 0
    value = (
        jnp.broadcast_to(to_dtype(source, out.dtype), index.shape)
        if not getattr(source, "ndim", 0)
        else (source[tuple(slice(0, n) for n in index.shape)].astype(out.dtype))
    )
    bad = (index < 0) | (index >= x.shape[dim])
    places = index_grid(jnp.where(bad, 0, index), dim)
    at = x.at[places]
    value = poison(value, bad)
    return jnp.reshape(at.add(value) if how == "add" else at.set(value), out.shape)


SCATTER: Mapping[str, Entry] = MappingProxyType({
    "scatter.src": _scatter,
    "scatter.value": _scatter,
    "scatter_add.default": _scatter_add,
    "scatter_reduce.two": _scatter_reduce,
    "index_add.default": _index_add,
    "index_copy.default": _index_copy,
    "index_fill.int_Scalar": _index_fill,
    "index_fill.int_Tensor": _index_fill,
})  # fmt: skip
"""Operation -> entry."""
