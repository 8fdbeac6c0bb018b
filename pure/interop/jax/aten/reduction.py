"""Reductions over axes: sums, means, extremes, norms; half precision is accumulated in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pure.interop.jax.aten.result import Entry, Out, axes_of, compute_dtype
from pure.interop.jax.aten.unary import absolute


def _largest_along(out: tuple[Out, Out], x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """Finds the largest along an axis, and its first index; the gradient goes to that one."""
    return _pick(jnp.argmax, out, x, dim, keepdim)


def _smallest_along(out: tuple[Out, Out], x: Any, dim: int, keepdim: bool = False) -> tuple[Any, Any]:
    """Finds the smallest along an axis, and its first index; the gradient goes to that one."""
    return _pick(jnp.argmin, out, x, dim, keepdim)


def _vector_norm(
    out: Out, x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """Computes the norm of vectors along axes.

    Args:
        out: the traced result.
        x: array.
        order: 2, 1, 0, infinity, or another number p: sum(abs(x)^p)^(1/p).
        dim, keepdim: axes; None is all.
        kwargs: dtype, which `out` already says.

    Returns:
        The norms. Where a norm is 0 its gradient is 0.
    """
    del kwargs
    axes, dtype = axes_of(dim, x.ndim), compute_dtype(out.dtype)
    size = absolute(x.astype(dtype))
    if order == float("inf"):
        return jnp.max(size, axes, keepdims=keepdim).astype(out.dtype)
    if order == float("-inf"):
        return jnp.min(size, axes, keepdims=keepdim).astype(out.dtype)
    if order == 0:
        return jnp.sum((size != 0).astype(dtype), axes, keepdims=keepdim).astype(out.dtype)
    if order == 1:
        return jnp.sum(size, axes, keepdims=keepdim).astype(out.dtype)
    power = size * size if order == 2 else _map_nonzero(lambda v: v**order, size)
    total = jnp.sum(power, axes, keepdims=keepdim)
    root = jnp.sqrt if order == 2 else lambda v: v ** (1 / order)
    return _map_nonzero(root, total).astype(out.dtype)


def _variance(out: Out, x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    """Computes the variance along axes, divided by the count minus the correction (1)."""
    wide = x.astype(compute_dtype(out.dtype))
    axes = axes_of(dim, x.ndim)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    centred = wide - jnp.mean(wide, axes, keepdims=True)
    divisor = max(0, count - (1 if correction is None else correction))
    return (jnp.sum(centred * centred, axes, keepdims=keepdim) / divisor).astype(out.dtype)


def _deviation(out: Out, x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False) -> Any:
    """Computes the standard deviation along axes; where it is 0 its gradient is 0."""
    wide = Out(out.shape, compute_dtype(out.dtype))
    square = _variance(wide, x, dim, correction=correction, keepdim=keepdim)
    return _map_nonzero(jnp.sqrt, square).astype(out.dtype)


def _variance_mean(
    out: Sequence[Out], x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[Any, Any]:
    """Computes variance and mean along axes."""
    return _variance(out[0], x, dim, correction=correction, keepdim=keepdim), _MEAN(out[1], x, dim, keepdim)


def _deviation_mean(
    out: Sequence[Out], x: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[Any, Any]:
    """Computes standard deviation and mean along axes."""
    return _deviation(out[0], x, dim, correction=correction, keepdim=keepdim), _MEAN(out[1], x, dim, keepdim)


def _extremes(
    out: Sequence[Out], x: Any, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Any, Any]:
    """Finds the smallest and the largest."""
    return _MIN(out[0], x, dim, keepdim), _MAX(out[1], x, dim, keepdim)


def _norm(out: Out, x: Any, order: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    """Computes a vector norm; no order means 2."""
    return _vector_norm(out, x, 2 if order is None else order, dim, keepdim, **kwargs)


def _count_nonzero(out: Out, x: Any, dim: Any = None) -> Any:
    """Counts elements that are not 0."""
    return jnp.sum(x != 0, axis=axes_of(dim, x.ndim), dtype=out.dtype)


def _logsumexp(out: Out, x: Any, dim: Any, keepdim: bool = False) -> Any:
    """Computes log(sum(exp(x))) along axes."""
    wide = x.astype(compute_dtype(out.dtype))
    return jax.nn.logsumexp(wide, axes_of(dim, x.ndim), keepdims=keepdim).astype(out.dtype)


def _map_nonzero(function: Callable, x: Any) -> Any:
    """Applies a function where x is not 0; elsewhere the result is 0, and its gradient too."""
    return jnp.where(x == 0, 0, function(jnp.where(x == 0, 1, x)))


def _reduce(function: Callable) -> Entry:
    """Builds the entry of a reduction: of all elements, or along `dim`."""

    def reduce(out: Out, x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        del kwargs
        wide = x.astype(compute_dtype(out.dtype))
        return function(wide, axis=axes_of(dim, x.ndim), keepdims=keepdim).astype(out.dtype)

    return reduce


def _test(function: Callable) -> Entry:
    """Builds the entry of all or any."""

    def reduce_truth(out: Out, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return function(x.astype(bool), axis=axes_of(dim, x.ndim), keepdims=keepdim).astype(out.dtype)

    return reduce_truth


def _index_of(function: Callable) -> Entry:
    """Builds the entry of argmax or argmin: the first index of the extreme; of NaN, if there is one."""

    def find_index(out: Out, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        return jnp.reshape(function(x, dim if x.ndim else None), out.shape).astype(out.dtype)

    return find_index


def _pick(function: Callable, out: tuple[Out, Out], x: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    """Value and index of an extreme along one axis."""
    if not x.ndim:
        return x, jnp.zeros((), out[1].dtype)
    index = jnp.expand_dims(function(x, dim), dim)
    value = jnp.take_along_axis(x, index, dim)
    if not keepdim:
        value, index = jnp.squeeze(value, dim), jnp.squeeze(index, dim)
    return value, index.astype(out[1].dtype)


_SUM, _MEAN, _PROD, _NANSUM = _reduce(jnp.sum), _reduce(jnp.mean), _reduce(jnp.prod), _reduce(jnp.nansum)
_MAX, _MIN, _ALL, _ANY = _reduce(jnp.max), _reduce(jnp.min), _test(jnp.all), _test(jnp.any)

REDUCTION: Mapping[str, Entry] = MappingProxyType({
    "sum.default": _SUM,
    "sum.dim_IntList": _SUM,
    "nansum.default": _NANSUM,
    "mean.default": _MEAN,
    "mean.dim": _MEAN,
    "prod.default": _PROD,
    "prod.dim_int": _PROD,
    "amax.default": _MAX,
    "amin.default": _MIN,
    "max.default": _MAX,
    "min.default": _MIN,
    "max.dim": _largest_along,
    "min.dim": _smallest_along,
    "argmax.default": _index_of(jnp.argmax),
    "argmin.default": _index_of(jnp.argmin),
    "all.default": _ALL,
    "all.dim": _ALL,
    "all.dims": _ALL,
    "any.default": _ANY,
    "any.dim": _ANY,
    "any.dims": _ANY,
    "linalg_vector_norm.default": _vector_norm,
    "var.correction": _variance,
    "std.correction": _deviation,
    "var_mean.correction": _variance_mean,
    "std_mean.correction": _deviation_mean,
    "aminmax.default": _extremes,
    "norm.Scalar": _norm,
    "norm.ScalarOpt_dim": _norm,
    "count_nonzero.default": _count_nonzero,
    "count_nonzero.dim_IntList": _count_nonzero,
    "logsumexp.default": _logsumexp,
})  # fmt: skip
"""Operation -> entry."""
