"""Activation functions, softmax, and the backward of both, in float32 for half precision."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, compute_dtype, pointwise


def _gelu(out: Out, x: Any, *, approximate: str = "none") -> Any:
    """Computes GELU, exact ("none") or by tanh ("tanh")."""
    return _compute_gelu(x.astype(compute_dtype(out.dtype)), approximate).astype(out.dtype)


def _gelu_backward(out: Out, g: Any, x: Any, *, approximate: str = "none") -> Any:
    """Computes the gradient of GELU: g times its derivative at x."""
    dtype = compute_dtype(out.dtype)
    _, pull = jax.vjp(lambda v: _compute_gelu(v, approximate), x.astype(dtype))
    return pull(g.astype(dtype))[0].astype(out.dtype)


def _threshold_backward(out: Out, g: Any, x: Any, threshold: Any) -> Any:
    """Computes the gradient of relu: g where x is above the threshold, else 0."""
    return jnp.where(x <= threshold, jnp.zeros((), out.dtype), g)


def _softplus(out: Out, x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    """Computes log(1 + exp(beta x)) / beta; x itself where beta x is above the threshold."""
    wide = x.astype(compute_dtype(out.dtype))
    scaled = wide * beta
    soft = jnp.log1p(jnp.exp(jnp.where(scaled > threshold, 0, scaled))) / beta
    return jnp.where(scaled > threshold, wide, soft).astype(out.dtype)


def _softplus_backward(out: Out, g: Any, x: Any, beta: Any, threshold: Any) -> Any:
    """Computes the gradient of softplus."""
    wide = x.astype(compute_dtype(out.dtype))
    slope = jnp.where(wide * beta > threshold, 1, jax.nn.sigmoid(wide * beta))
    return (g * slope).astype(out.dtype)


def _log_sigmoid(out: tuple[Out, Out], x: Any) -> tuple[Any, Any]:
    """Computes log(sigmoid(x)) and torch's buffer, exp(-abs(x)) or empty, which no backward here reads."""
    wide = x.astype(compute_dtype(out[0].dtype))
    buffer = lax.stop_gradient(jnp.exp(-jnp.abs(wide)).astype(out[1].dtype))
    buffer = buffer if out[1].shape == x.shape else jnp.zeros(out[1].shape, out[1].dtype)
    return jax.nn.log_sigmoid(wide).astype(out[0].dtype), buffer


def _log_sigmoid_backward(out: Out, g: Any, x: Any, buffer: Any) -> Any:
    """Computes the gradient of log-sigmoid: g sigmoid(-x)."""
    del buffer
    return pointwise(lambda g, x: g * jax.nn.sigmoid(-x))(out, g, x)


def _softmax(out: Out, x: Any, dim: int, half_to_float: bool) -> Any:
    """Computes softmax along an axis."""
    del half_to_float
    return jax.nn.softmax(x.astype(compute_dtype(out.dtype)), _axis(x, dim)).astype(out.dtype)


def _log_softmax(out: Out, x: Any, dim: int, half_to_float: bool) -> Any:
    """Computes log-softmax along an axis."""
    del half_to_float
    return jax.nn.log_softmax(x.astype(compute_dtype(out.dtype)), _axis(x, dim)).astype(out.dtype)


def _safe_softmax(out: Out, x: Any, dim: int, dtype: Any = None) -> Any:
    """Computes softmax, and 0 in rows that are minus infinity everywhere."""
    del dtype
    empty = jnp.all(x == -jnp.inf, dim, keepdims=True)
    return jnp.where(empty, 0, _softmax(out, jnp.where(empty, 0, x), dim, False)).astype(out.dtype)


def _softmax_backward(out: Out, g: Any, y: Any, dim: int, input_dtype: Any) -> Any:
    """Computes the gradient of softmax from its result y: y (g - sum(g y))."""
    del input_dtype
    g, y = g.astype(compute_dtype(g.dtype)), y.astype(compute_dtype(y.dtype))
    return (y * (g - jnp.sum(g * y, _axis(y, dim), keepdims=True))).astype(out.dtype)


def _log_softmax_backward(out: Out, g: Any, y: Any, dim: int, input_dtype: Any) -> Any:
    """Computes the gradient of log-softmax from its result y: g - exp(y) sum(g)."""
    del input_dtype
    g, y = g.astype(compute_dtype(g.dtype)), y.astype(compute_dtype(y.dtype))
    return (g - jnp.exp(y) * jnp.sum(g, _axis(y, dim), keepdims=True)).astype(out.dtype)


def _compute_gelu(x: Any, approximate: str) -> Any:
    """GELU in the dtype of x."""
    if approximate == "tanh":
        return jax.nn.gelu(x, approximate=True)
    return x * 0.5 * (1 + lax.erf(x * 0.5**0.5))


def _silu_backward(g: Any, x: Any) -> Any:
    """The gradient of silu: g s (1 + x (1 - s)), s = sigmoid(x)."""
    s = jax.nn.sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


def _axis(x: Any, dim: int) -> int | None:
    """The axis of a softmax; a 0-d array has none, and gives 1."""
    return dim if x.ndim else None


ACTIVATION: Mapping[str, Entry] = MappingProxyType({
    "relu.default": pointwise(lambda x: jnp.where(x <= 0, jnp.zeros_like(x), x)),
    "silu.default": pointwise(lambda x: x * jax.nn.sigmoid(x)),
    "gelu.default": _gelu,
    "softplus.default": _softplus,
    "log_sigmoid_forward.default": _log_sigmoid,
    "_softmax.default": _softmax,
    "_safe_softmax.default": _safe_softmax,
    "_log_softmax.default": _log_softmax,
    "silu_backward.default": pointwise(_silu_backward),
    "sigmoid_backward.default": pointwise(lambda g, y: g * ((1 - y) * y)),
    "tanh_backward.default": pointwise(lambda g, y: g * (1 - y * y)),
    "gelu_backward.default": _gelu_backward,
    "threshold_backward.default": _threshold_backward,
    "softplus_backward.default": _softplus_backward,
    "log_sigmoid_backward.default": _log_sigmoid_backward,
    "_softmax_backward_data.default": _softmax_backward,
    "_log_softmax_backward_data.default": _log_softmax_backward,
})  # fmt: skip
"""Operation -> entry."""
