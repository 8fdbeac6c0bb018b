"""New arrays: constants and sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from pure.interop.jax.aten.result import NUMBERS, Entry, Out, to_dtype


def _arange(out: Out, *bounds: Any, **kwargs: Any) -> Any:
    """Counts from start (0) below end by step (1); the traced shape says how many."""
    del kwargs
    start, step = (bounds[0], (*bounds, 1, 1)[2]) if len(bounds) > 1 else (0, 1)
    count = out.shape[0]
    return jnp.asarray(np.arange(count) * np.asarray(step) + np.asarray(start), out.dtype)


def _full(out: Out, *args: Any, **kwargs: Any) -> Any:
    """Fills the traced shape with one value, the last argument."""
    del kwargs
    value = args[-1]
    return jnp.broadcast_to(to_dtype(value, out.dtype), out.shape)


def _scalar_tensor(out: Out, value: Any, **kwargs: Any) -> Any:
    """Makes a 0-d array of a number."""
    del kwargs
    return jnp.asarray(to_dtype(value, out.dtype))


def _linspace(out: Out, start: Any, end: Any, steps: int, **kwargs: Any) -> Any:
    """Makes evenly spaced numbers, both ends included."""
    del kwargs
    return jnp.linspace(start, end, steps, dtype=out.dtype)


def _eye(out: Out, *sizes: Any, **kwargs: Any) -> Any:
    """Makes an identity matrix, square or not."""
    del sizes, kwargs
    rows, columns = out.shape
    return jnp.eye(rows, columns, dtype=out.dtype)


def _triangle_indices(function: Callable) -> Entry:
    """Builds the entry of tril_indices or triu_indices: rows and columns."""

    def list_indices(out: Out, rows: int, columns: int, offset: int = 0, **kwargs: Any) -> Any:
        del kwargs
        return jnp.asarray(np.stack(function(rows, offset, columns)), out.dtype)

    return list_indices


def _copy(out: Out, x: Any, source: Any, non_blocking: bool = False) -> Any:
    """Gives the source, in the shape and dtype of x."""
    del x, non_blocking
    value = to_dtype(source, out.dtype) if isinstance(source, NUMBERS) else source.astype(out.dtype)
    return jnp.broadcast_to(value, out.shape)


def _constant(number: int) -> Any:
    """Builds the entry that fills the traced shape with 0 or 1."""

    def fill_constant(out: Out, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return jnp.full(out.shape, number, out.dtype)

    return fill_constant


_ZEROS, _ONES = _constant(0), _constant(1)

CREATION: Mapping[str, Entry] = MappingProxyType({
    "arange.default": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "linspace.default": _linspace,
    "eye.default": _eye,
    "eye.m": _eye,
    "tril_indices.default": _triangle_indices(np.tril_indices),
    "triu_indices.default": _triangle_indices(np.triu_indices),
    "scalar_tensor.default": _scalar_tensor,
    "full.default": _full,
    "full_like.default": _full,
    "new_full.default": _full,
    "fill.Scalar": _full,
    "fill.Tensor": _full,
    "zeros.default": _ZEROS,
    "zeros_like.default": _ZEROS,
    "new_zeros.default": _ZEROS,
    "empty.memory_format": _ZEROS,
    "empty_like.default": _ZEROS,
    "new_empty.default": _ZEROS,
    "new_empty_strided.default": _ZEROS,
    "ones.default": _ONES,
    "ones_like.default": _ONES,
    "new_ones.default": _ONES,
    "copy.default": _copy,
})  # fmt: skip
"""Operation -> entry. An array that torch leaves uninitialised is zeros."""
