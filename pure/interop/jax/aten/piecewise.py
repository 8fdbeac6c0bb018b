"""Activation functions in pieces, and their backward: at a kink the derivative is that of torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pure.interop.jax.aten.result import Entry, Out, compute_dtype, compute_wide, pull_back


def _elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    """scale x where x > 0, else scale alpha (exp(input_scale x) - 1)."""
    negative = alpha * jnp.expm1(jnp.where(x > 0, 0, x) * input_scale)
    return scale * jnp.where(x > 0, x, negative)


def _celu(x: Any, alpha: Any = 1.0) -> Any:
    """ELU with input_scale = 1 / alpha."""
    return _elu(x, alpha, 1, 1 / alpha)


def _elu_backward(
    out: Out, g: Any, alpha: Any, scale: Any, input_scale: Any, is_result: bool, given: Any
) -> Any:
    """The gradient of ELU from its argument, or from its result y: scale alpha exp(.) is y + scale alpha."""
    if not is_result:
        return pull_back(_elu)(out, g, given, alpha, scale, input_scale)
    dtype = compute_dtype(out.dtype)
    y = given.astype(dtype)
    slope = jnp.where(y <= 0, input_scale * (y + scale * alpha), scale)
    return (g.astype(dtype) * slope).astype(out.dtype)


def _leaky_relu(x: Any, slope: Any = 0.01) -> Any:
    """x where x > 0, else slope x."""
    return jnp.where(x > 0, x, slope * x)


def _leaky_relu_backward(out: Out, g: Any, x: Any, slope: Any, is_result: bool) -> Any:
    """The gradient of leaky relu; argument and result have the same sign."""
    del is_result
    return pull_back(_leaky_relu)(out, g, x, slope)


def _hardtanh(x: Any, low: Any = -1, high: Any = 1) -> Any:
    """x within (low, high), else the bound."""
    return jnp.where(x <= low, low, jnp.where(x >= high, high, x))


def _hardswish(x: Any) -> Any:
    """0 up to -3, x from 3 on, x (x + 3) / 6 between them."""
    return jnp.where(x <= -3, x * 0, jnp.where(x >= 3, x, x * (x + 3) / 6))


def _hardsigmoid(x: Any) -> Any:
    """0 up to -3, 1 from 3 on, (x + 3) / 6 between them."""
    return jnp.where(x <= -3, jnp.zeros_like(x), jnp.where(x >= 3, jnp.ones_like(x), (x + 3) / 6))


def _mish(x: Any) -> Any:
    """x tanh(log(1 + exp(x)))."""
    return x * jnp.tanh(jax.nn.softplus(x))


def _softshrink(x: Any, bound: Any = 0.5) -> Any:
    """Moves x towards 0 by the bound; 0 within it."""
    return jnp.where(x > bound, x - bound, jnp.where(x < -bound, x + bound, x * 0))


def _hardshrink(x: Any, bound: Any = 0.5) -> Any:
    """0 within the bound, x outside."""
    return jnp.where((x >= -bound) & (x <= bound), jnp.zeros_like(x), x)


def _glu(x: Any, dim: int = -1) -> Any:
    """The first half of an axis, times the sigmoid of the second."""
    a, b = jnp.split(x, 2, dim)
    return a * jax.nn.sigmoid(b)


def _threshold(x: Any, threshold: Any, value: Any) -> Any:
    """x above the threshold, else the value."""
    return jnp.where(x <= threshold, jnp.asarray(value, x.dtype), x)


PIECEWISE: Mapping[str, Entry] = MappingProxyType({
    "elu.default": compute_wide(_elu),
    "celu.default": compute_wide(_celu),
    "leaky_relu.default": compute_wide(_leaky_relu),
    "hardtanh.default": compute_wide(_hardtanh),
    "hardswish.default": compute_wide(_hardswish),
    "hardsigmoid.default": compute_wide(_hardsigmoid),
    "mish.default": compute_wide(_mish),
    "softshrink.default": compute_wide(_softshrink),
    "hardshrink.default": compute_wide(_hardshrink),
    "glu.default": compute_wide(_glu),
    "threshold.default": compute_wide(_threshold),
    "elu_backward.default": _elu_backward,
    "leaky_relu_backward.default": _leaky_relu_backward,
    "hardtanh_backward.default": pull_back(_hardtanh),
    "hardswish_backward.default": pull_back(_hardswish),
    "hardsigmoid_backward.default": pull_back(_hardsigmoid),
    "mish_backward.default": pull_back(_mish),
    "softshrink_backward.default": pull_back(_softshrink),
    "hardshrink_backward.default": pull_back(_hardshrink),
    "glu_backward.default": pull_back(_glu),
})  # fmt: skip
"""Operation -> entry."""
