"""Sorting, the k largest, and cumulative operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
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


def _kth(out: Sequence[Out], x: Any, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """Finds the k-th smallest (from 1) along an axis, and its index."""
    if not x.ndim:
        return x, jnp.zeros((), out[1].dtype)
    return _take_one(out, x, lax.slice_in_dim(_sorting_index(x, dim, False), k - 1, k, 1, dim), dim, keepdim)


def _median(out: Sequence[Out], x: Any, dim: int = -1, keepdim: bool = False) -> tuple[Any, Any]:
    """Finds the lower median along an axis, and its index; NaN, if there is one."""
    if not x.ndim:
        return x, jnp.zeros((), out[1].dtype)
    middle = (x.shape[dim] - 1) // 2
    index = lax.slice_in_dim(_sorting_index(x, dim, False), middle, middle + 1, 1, dim)
    nan = x != x
    first = jnp.argmax(nan, dim, keepdims=True).astype(index.dtype)
    index = jnp.where(jnp.any(nan, dim, keepdims=True), first, index)
    return _take_one(out, x, index, dim, keepdim)


def _median_of_all(out: Out, x: Any) -> Any:
    """Finds the lower median of all elements."""
    index = Out(out.shape, np.dtype("int32"))
    return _median((out, index), jnp.reshape(x, -1), 0)[0]


def _cumulative_extreme(largest: bool) -> Entry:
    """Builds the entry of cummax or cummin: the extreme so far, and the last index where it stood."""

    def accumulate_extreme(out: Sequence[Out], x: Any, dim: int) -> tuple[Any, Any]:
        if not x.ndim:
            return x, jnp.zeros((), out[1].dtype)
        axis = dim % x.ndim
        so_far = (lax.cummax if largest else lax.cummin)(lax.stop_gradient(x), axis)
        position = lax.broadcasted_iota(np.dtype("int32"), x.shape, axis)
        index = lax.cummax(jnp.where((x == so_far) | (x != x), position, 0), axis)
        return jnp.take_along_axis(x, index, axis), index.astype(out[1].dtype)

    return accumulate_extreme


def _searchsorted(
    out: Out, edges: Any, x: Any, *, right: bool = False, side: str | None = None, **kwargs: Any
) -> Any:
    """Finds where x would be inserted into sorted edges of one axis.

    Args:
        out: the traced result.
        edges: [N], sorted.
        x: values, of any shape.
        right: after equal edges.
        side: the same as a word, "left" or "right".
        kwargs: out_int32, which `out` already says; a `sorter` is refused.

    Returns:
        Indices in [0, N].

    Raises:
        NotImplementedError: for edges of several axes, or a sorter.
    """
    if edges.ndim != 1 or kwargs.get("sorter") is not None:
        raise NotImplementedError(
            f"searchsorted: expected sorted edges of one axis, got {edges.ndim} axes or a sorter; sort first"
        )
    where = side or ("right" if right else "left")
    return jnp.searchsorted(edges, x, side=where).astype(out.dtype)


def _bucketize(out: Out, x: Any, edges: Any, *, right: bool = False, **kwargs: Any) -> Any:
    """Finds the bucket of x between sorted edges."""
    return _searchsorted(out, edges, x, right=right, **kwargs)


def _is_in(out: Out, x: Any, members: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """Tells which elements are among others."""
    del out, assume_unique
    return jnp.isin(x, members, invert=invert)


def _take_one(out: Sequence[Out], x: Any, index: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    """The value at one index along an axis, and the index."""
    value = jnp.take_along_axis(x, index, dim)
    if not keepdim:
        value, index = jnp.squeeze(value, dim), jnp.squeeze(index, dim)
    return value, index.astype(out[1].dtype)


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
    "kthvalue.default": _kth,
    "median.default": _median_of_all,
    "median.dim": _median,
    "searchsorted.Tensor": _searchsorted,
    "bucketize.Tensor": _bucketize,
    "isin.Tensor_Tensor": _is_in,
    "cummax.default": _cumulative_extreme(True),
    "cummin.default": _cumulative_extreme(False),
    "logcumsumexp.default": _accumulate(lambda x, dim: lax.cumlogsumexp(x, dim % x.ndim)),
    "cumsum.default": _accumulate(jnp.cumsum),
    "cumprod.default": _accumulate(jnp.cumprod),
})  # fmt: skip
"""Operation -> entry."""
