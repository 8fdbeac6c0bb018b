"""Index arrays as jax takes them, and what stands for an index out of range."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from pure.interop.jax.aten.result import is_float


def to_unsigned(index: Any) -> Any:
    """Indices for which a negative number is out of range, and not counted from the end."""
    return index.astype(np.dtype(f"uint{8 * index.dtype.itemsize}"))


def index_grid(index: Any, dim: int) -> tuple:
    """Index arrays of every axis: the index on `dim`, else positions."""
    axis = dim % index.ndim
    places = list(jnp.ogrid[tuple(slice(0, n) for n in index.shape)])
    places[axis] = index
    return tuple(places)


def is_batched(x: Any, dim: int, index: Any) -> bool:
    """Reports indices of the same shape but for one axis: devices that share a batch need not gather them."""
    others = [axis for axis in range(x.ndim) if axis != dim % x.ndim]
    return all(x.shape[axis] == index.shape[axis] for axis in others)


def poison(values: Any, bad: Any) -> Any:
    """Replaces values whose index is out of range by NaN, the lowest integer, or True."""
    if is_float(values.dtype):
        worst = np.asarray(np.nan, values.dtype)
    else:
        worst = (
            np.asarray(True) if values.dtype == bool else np.asarray(np.iinfo(values.dtype).min, values.dtype)
        )
    return jnp.where(bad, worst, values)
