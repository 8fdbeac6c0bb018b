"""Normalisation layers: layer, group and batch norm with the statistics of the batch, and their backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, compute_dtype

Outs = Sequence[Out | None]
"""Results of a backward; None for an argument that needs no gradient."""


def _standardize(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """(x - mean) / sqrt(variance + eps) along axes, the mean, and 1 / sqrt(variance + eps); axes are kept."""
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    rate = lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + eps)
    return centred * rate, mean, rate


def _scale(y: Any, weight: Any, bias: Any, shape: Sequence[int]) -> Any:
    """y weight + bias, each reshaped to broadcast; either may be None."""
    y = y if weight is None else y * jnp.reshape(weight, shape).astype(y.dtype)
    return y if bias is None else y + jnp.reshape(bias, shape).astype(y.dtype)


def _layer_norm(x: Any, weight: Any, bias: Any, axes: int, eps: float) -> tuple[Any, Any, Any]:
    """Over the last `axes` axes."""
    y, mean, rate = _standardize(x, tuple(range(x.ndim - axes, x.ndim)), eps)
    return _scale(y, weight, bias, x.shape[x.ndim - axes :]), mean, rate


def _group_norm(x: Any, weight: Any, bias: Any, groups: int, eps: float) -> tuple[Any, Any, Any]:
    """Over the channels of a group and all places; channels are the second axis."""
    rows, channels = x.shape[:2]
    y, mean, rate = _standardize(jnp.reshape(x, (rows, groups, -1)), (2,), eps)
    shape = (1, channels, *[1] * (x.ndim - 2))
    return _scale(jnp.reshape(y, x.shape), weight, bias, shape), mean, rate


def _batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any]:
    """Over rows and places, for each channel."""
    axes = (0, *range(2, x.ndim))
    y, mean, rate = _standardize(x, axes, eps)
    return _scale(y, weight, bias, mean.shape), mean, rate


def _finish(out: Sequence[Out], results: Sequence[Any]) -> tuple:
    """The results in the traced shapes and dtypes."""
    return tuple(jnp.reshape(x, o.shape).astype(o.dtype) for x, o in zip(results, out, strict=True))


def _native_layer_norm(
    out: Sequence[Out], x: Any, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> tuple:
    """Layer norm: the result, the mean and 1 / deviation."""
    wide = x.astype(compute_dtype(x.dtype))
    return _finish(out, _layer_norm(wide, weight, bias, len(shape), eps))


def _native_layer_norm_backward(
    out: Outs,
    g: Any,
    x: Any,
    shape: Sequence[int],
    mean: Any,
    rate: Any,
    weight: Any,
    bias: Any,
    mask: Sequence[bool],
) -> tuple:
    """Gradients to x, weight and bias, from the mean and 1 / deviation of the forward."""
    del mask
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _backward(out, g, x, mean, rate, weight, bias, axes, (), tuple(shape))


def _native_group_norm(
    out: Sequence[Out], x: Any, weight: Any, bias: Any, n: int, c: int, places: int, groups: int, eps: float
) -> tuple:
    """Group norm: the result, the mean and 1 / deviation of every group."""
    del n, c, places
    return _finish(out, _group_norm(x.astype(compute_dtype(x.dtype)), weight, bias, groups, eps))


def _native_group_norm_backward(
    out: Outs,
    g: Any,
    x: Any,
    mean: Any,
    rate: Any,
    weight: Any,
    n: int,
    c: int,
    places: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple:
    """Gradients to x, weight and bias of group norm."""
    del n, places, mask
    split = (x.shape[0], groups, -1)
    return _backward(out, g, x, mean, rate, weight, None, (2,), split, (1, c, *[1] * (x.ndim - 2)))


def _batch_norm_legit(
    out: Sequence[Out], x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float
) -> tuple:
    """Batch norm with the statistics of the batch."""
    del training, momentum
    return _finish(out, _batch_norm(x.astype(compute_dtype(x.dtype)), weight, bias, eps))


def _native_batch_norm_backward(
    out: Outs,
    g: Any,
    x: Any,
    weight: Any,
    running_mean: Any,
    running_var: Any,
    mean: Any,
    rate: Any,
    train: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple:
    """Gradients to x, weight and bias of batch norm; with running statistics it is refused."""
    del running_mean, running_var, eps, mask
    if not train:
        raise NotImplementedError(
            "batch norm: expected training=True, got False; write the affine map itself"
        )
    axes, shape = (0, *range(2, x.ndim)), (1, x.shape[1], *[1] * (x.ndim - 2))
    return _backward(out, g, x, mean, rate, weight, None, axes, (), shape)


def _backward(
    out: Outs,
    g: Any,
    x: Any,
    mean: Any,
    rate: Any,
    weight: Any,
    bias: Any,
    axes: tuple[int, ...],
    split: tuple[int, ...],
    shape: tuple[int, ...],
) -> tuple:
    """Gradients of a standardised x, scaled by a weight of `shape`, from the statistics of the forward.

    dx = rate (d - mean(d) - y mean(d y)), with d = g weight, y = (x - mean) rate, means along `axes` of x in
    the shape `split` (empty: its own).
    """
    del bias
    dtype = compute_dtype(x.dtype)
    wide, grad = x.astype(dtype), g.astype(dtype)
    view: Callable = (lambda v: jnp.reshape(v, split)) if split else (lambda v: v)
    kept = [1 if axis in axes else n for axis, n in enumerate(view(wide).shape)]
    mean, rate = (jnp.reshape(v, kept).astype(dtype) for v in (mean, rate))
    y = (view(wide) - mean) * rate
    d = view(grad if weight is None else grad * jnp.reshape(weight, shape).astype(dtype))
    along: Callable = lambda v: jnp.mean(v, axes, keepdims=True)  # noqa: E731
    grad_x = jnp.reshape(rate * (d - along(d) - y * along(d * y)), x.shape)
    _, pull = jax.vjp(lambda v: jnp.broadcast_to(v, x.shape), jnp.zeros(shape, dtype))
    results = (grad_x, pull(grad * jnp.reshape(y, x.shape))[0], pull(grad)[0])
    return tuple(
        None if o is None else jnp.reshape(r, o.shape).astype(o.dtype)
        for r, o in zip(results, out, strict=True)
    )


NORM: Mapping[str, Entry] = MappingProxyType({
    "native_layer_norm.default": _native_layer_norm,
    "native_layer_norm_backward.default": _native_layer_norm_backward,
    "native_group_norm.default": _native_group_norm,
    "native_group_norm_backward.default": _native_group_norm_backward,
    "_native_batch_norm_legit.no_stats": _batch_norm_legit,
    "native_batch_norm_backward.default": _native_batch_norm_backward,
})  # fmt: skip
"""Operation -> entry."""
