"""Sorting, the k largest, and cumulative operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, compute_dtype


def _sort(out: tuple[Out, Out], x: Any, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    """Sorts along an axis: values and indices. Equal elements keep their order; NaN is the largest."""
    if not x.ndim:
        return x, jnp.zeros((), out[1].dtype)
    index = _sorting_index(x, dim, descending)
    return jnp.take_along_axis(x, index, dim), index.astype(out[1].dtype)


def _sort_stable(
    out: tuple[Out, Out], x: Any, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Any, Any]:
    """Sorts as `sort` does, which is stable.

    Args:
        out: the two traced results.
        x: array.
        stable: not used.
        dim: axis.
        descending: largest first.

    Returns:
        (values, indices).
    """
    del stable
    return _sort(out, x, dim, descending)


def _argsort(out: Out, x: Any, dim: int = -1, descending: bool = False) -> Any:
    """Finds the indices that sort along an axis."""
    return _sorting_index(x, dim, descending).astype(out.dtype) if x.ndim else jnp.zeros((), out.dtype)


def _topk(
    out: tuple[Out, Out], x: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Any, Any]:
    """Finds the k largest (or smallest) along an axis, in order; of equals, the first.

    Args:
        out: the two traced results.
        x: array.
        k: how many.
        dim: axis.
        largest: False finds the smallest.
        sorted: not used: the result is in order.

    Returns:
        (values, indices).
    """
    del sorted
    if not x.ndim:
        return jnp.reshape(x, out[0].shape), jnp.zeros(out[1].shape, out[1].dtype)
    index = lax.slice_in_dim(_sorting_index(x, dim, largest), 0, k, 1, dim)
    return jnp.take_along_axis(x, index, dim), index.astype(out[1].dtype)


def _sorting_index(x: Any, dim: int, descending: bool) -> Any:
    """A stable argsort; NaN is the largest."""
    return jnp.argsort(x, dim, stable=True, descending=descending)


def _accumulate(function: Callable) -> Entry:
    """Builds the entry of a cumulative operation along an axis."""

    def accumulate(out: Out, x: Any, dim: int, **kwargs: Any) -> Any:
        del kwargs
        wide = x.astype(compute_dtype(out.dtype))
        return (function(wide, dim) if x.ndim else wide).astype(out.dtype)

    return accumulate


ORDER: Mapping[str, Entry] = MappingProxyType({
    "sort.default": _sort,
    "sort.stable": _sort_stable,
    "argsort.default": _argsort,
    "topk.default": _topk,
    "cumsum.default": _accumulate(jnp.cumsum),
    "cumprod.default": _accumulate(jnp.cumprod),
})  # fmt: skip
"""Operation -> entry."""
