"""Comparisons, logic, and choices between operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, pointwise, promote_operands, to_dtype

TIES_ARE_SPLIT = tuple(int(number) for number in torch.__version__.split(".")[:2]) >= (2, 15)
"""Whether clamp splits the gradient where x equals a bound, as torch does since 2.15."""


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
        Since torch 2.15 it goes to nothing if the bound is a number, and half to x and half to a bound that
        is an array and not equal to the other one; NaN has a gradient where the bounds are arrays, and so
        has the bound, if there is one.
    """
    low, high = bounds.get("min", low), bounds.get("max", high)
    x, inside = x.astype(out.dtype), True
    y = lax.stop_gradient(x)
    least, most = (None if bound is None else to_dtype(bound, out.dtype) for bound in (low, high))
    if least is not None:
        y, inside = jnp.where((y < least) | (least != least), least, y), x >= least
    if most is not None:
        y, inside = jnp.where((y > most) | (most != most), most, y), inside & (x <= most)
    if not TIES_ARE_SPLIT:
        return jnp.where(inside, x, y)
    is_array = any(isinstance(bound, jax.Array) for bound in (low, high))
    result = jnp.where(inside | (x != x), x, y) if is_array else jnp.where(inside, x, y)
    for limit, other in ((least, most), (most, least)):
        if limit is None:
            continue
        tie = inside & (x == limit)
        if not is_array:
            result = jnp.where(tie, lax.stop_gradient(x), result)
            continue
        apart = True if other is None else limit != other
        pair = jnp.broadcast_arrays(x, limit)
        result = jnp.where(tie & apart, _share(0.5, *pair), result)
        if other is None:
            result = jnp.where(x != x, _share(1.0, *pair), result)
    return result


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _share(share: float, x: Any, limit: Any) -> Any:
    """Returns x; this share of the gradient goes to x and to the limit, each."""
    return x


@_share.defjvp
def _share_tangents(share: float, values: tuple, tangents: tuple) -> tuple:
    """The derivative of `_share`."""
    return values[0], share * tangents[0] + share * tangents[1]


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
