"""Comparisons, logic, and choices between operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, pointwise, promote_operands, to_dtype


def _where(out: Out, condition: Any, a: Any, b: Any) -> Any:
    """Chooses a where the condition holds, else b."""
    return jnp.where(condition.astype(bool), to_dtype(a, out.dtype), to_dtype(b, out.dtype))


def _masked_fill(out: Out, x: Any, mask: Any, value: Any) -> Any:
    """Replaces x by a value where the mask holds."""
    return jnp.where(mask, to_dtype(value, out.dtype), x)


def _clamp(out: Out, x: Any, low: Any = None, high: Any = None, **bounds: Any) -> Any:
    """Limits x to [low, high]; where low > high the result is high.

    Args:
        out: the traced result.
        x: array.
        low, high: bounds: an array, a number or None.
        bounds: the same under torch's names, min and max.

    Returns:
        An array in which NaN stays, without a gradient. At a bound that x equals, the gradient goes to x.
    """
    x, inside = x.astype(out.dtype), True
    y = lax.stop_gradient(x)
    if (low := bounds.get("min", low)) is not None:
        least = to_dtype(low, out.dtype)
        y, inside = jnp.where((y < least) | (least != least), least, y), x >= least
    if (high := bounds.get("max", high)) is not None:
        most = to_dtype(high, out.dtype)
        y, inside = jnp.where((y > most) | (most != most), most, y), inside & (x <= most)
    return jnp.where(inside, x, y)


def _clamp_max(out: Out, x: Any, high: Any) -> Any:
    """Limits x from above."""
    return _clamp(out, x, None, high)


def _compare(function: Callable) -> Entry:
    """Builds the entry of a comparison, in the dtype that torch compares in."""

    def compare(out: Out, a: Any, b: Any) -> Any:
        dtype = promote_operands(a, b)
        return function(to_dtype(a, dtype), to_dtype(b, dtype))

    return compare


def _combine(function: Callable) -> Entry:
    """Builds the entry of a logical operation on truth values."""
    return lambda out, a, b: function(a.astype(bool), b.astype(bool))


_EQ, _NE = _compare(jnp.equal), _compare(jnp.not_equal)
_LT, _LE = _compare(jnp.less), _compare(jnp.less_equal)
_GT, _GE = _compare(jnp.greater), _compare(jnp.greater_equal)
_AND, _OR, _XOR = pointwise(jnp.bitwise_and), pointwise(jnp.bitwise_or), pointwise(jnp.bitwise_xor)

COMPARISON: Mapping[str, Entry] = MappingProxyType({
    "eq.Tensor": _EQ,
    "eq.Scalar": _EQ,
    "ne.Tensor": _NE,
    "ne.Scalar": _NE,
    "lt.Tensor": _LT,
    "lt.Scalar": _LT,
    "le.Tensor": _LE,
    "le.Scalar": _LE,
    "gt.Tensor": _GT,
    "gt.Scalar": _GT,
    "ge.Tensor": _GE,
    "ge.Scalar": _GE,
    "logical_and.default": _combine(jnp.logical_and),
    "logical_or.default": _combine(jnp.logical_or),
    "logical_xor.default": _combine(jnp.logical_xor),
    "bitwise_and.Tensor": _AND,
    "bitwise_and.Scalar": _AND,
    "bitwise_or.Tensor": _OR,
    "bitwise_or.Scalar": _OR,
    "bitwise_xor.Tensor": _XOR,
    "bitwise_xor.Scalar": _XOR,
    "where.self": _where,
    "where.Scalar": _where,
    "where.ScalarOther": _where,
    "where.ScalarSelf": _where,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "clamp.default": _clamp,
    "clamp.Tensor": _clamp,
    "clamp_min.default": _clamp,
    "clamp_min.Tensor": _clamp,
    "clamp_max.default": _clamp_max,
    "clamp_max.Tensor": _clamp_max,
})  # fmt: skip
"""Operation -> entry."""
