"""Arithmetic of two operands: torch's rounding modes, remainders, powers and shifts, in jax.

Integer division: a divisor that is a constant 0 raises ZeroDivisionError, as torch does; one that is computed
gives XLA's result (quotient -1, remainder the dividend), since compiled code cannot raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from pure.interop.jax.aten.result import NUMBERS, Entry, Out, compute_dtype, is_float, pointwise, to_dtype


def _add(out: Out, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Computes a + alpha b; of bools, logical or."""
    return _add_scaled(out, a, b, alpha)


def _sub(out: Out, a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """Computes a - alpha b."""
    return _add_scaled(out, a, b, -alpha)


def _rsub(out: Out, a: Any, b: Any, alpha: Any = 1) -> Any:
    """Computes b - alpha a."""
    return _add_scaled(out, b, a, -alpha)


def _div(out: Out, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """Divides a by b.

    Args:
        out: the traced result.
        a, b: arrays or numbers, broadcast.
        rounding_mode: None is true division; "trunc" rounds the quotient to zero, "floor" down.

    Returns:
        The quotient in `out.dtype`. Rounded quotients have gradient 0.

    Raises:
        ZeroDivisionError: for integers divided by a constant 0.
    """
    dtype = compute_dtype(out.dtype)
    x, y = to_dtype(a, dtype), to_dtype(b, dtype)
    if rounding_mode is None:
        return (x / y).astype(out.dtype)
    if not is_float(dtype):
        _check_divisor(b)
        rounded = jnp.floor_divide(x, y) if rounding_mode == "floor" else lax.div(*jnp.broadcast_arrays(x, y))
        return rounded.astype(out.dtype)
    x, y = lax.stop_gradient(x), lax.stop_gradient(y)
    return (_floor_quotient(x, y) if rounding_mode == "floor" else jnp.trunc(x / y)).astype(out.dtype)


def _floor_divide(out: Out, a: Any, b: Any) -> Any:
    """Divides and rounds down."""
    return _div(out, a, b, rounding_mode="floor")


def _remainder(out: Out, a: Any, b: Any) -> Any:
    """Computes the remainder with the divisor's sign."""
    if not is_float(out.dtype):
        _check_divisor(b)
    return pointwise(jnp.remainder)(out, a, b)


def _fmod(out: Out, a: Any, b: Any) -> Any:
    """Computes the remainder with the dividend's sign."""
    if not is_float(out.dtype):
        _check_divisor(b)
    return pointwise(jnp.fmod)(out, a, b)


def _power(out: Out, a: Any, b: Any) -> Any:
    """Computes a to the power b; small whole exponents by products, 0.5 and -0.5 by the root."""
    dtype = compute_dtype(out.dtype)
    x = to_dtype(a, dtype)
    if isinstance(b, NUMBERS) and b in (-2, -1, 0, 1, 2, 3):
        return lax.integer_pow(x, int(b)).astype(out.dtype)
    if isinstance(b, NUMBERS) and b in (0.5, -0.5):
        return (jnp.sqrt(x) if b > 0 else lax.rsqrt(x)).astype(out.dtype)
    y = to_dtype(b, dtype)
    if not isinstance(a, NUMBERS) and not isinstance(b, NUMBERS) and jnp.issubdtype(dtype, jnp.inexact):
        x = jnp.where((x == 0) & (y == 0), jnp.ones_like(x), x)  # 0 ** 0: both derivatives 0, not NaN
    return jnp.power(x, y).astype(out.dtype)


def _add_scaled(out: Out, a: Any, b: Any, alpha: Any) -> Any:
    """Computes a + alpha b; a sum with alpha = -1 is a difference, so that no product is rounded."""
    dtype = compute_dtype(out.dtype)
    x, y = to_dtype(a, dtype), to_dtype(b, dtype)
    if alpha == -1:
        return jnp.subtract(x, y).astype(out.dtype)
    return jnp.add(x, y if alpha == 1 else y * to_dtype(alpha, dtype)).astype(out.dtype)


def _check_divisor(b: Any) -> None:
    """Refuses a constant 0 among integers."""
    if isinstance(b, NUMBERS) and b == 0:
        raise ZeroDivisionError("expected a divisor that is not 0, got the constant 0; divide floats instead")


def _floor_quotient(x: Any, y: Any) -> Any:
    """Rounds x / y down from the exact remainder, so that 1.0 // 0.1 is 9."""
    rest = lax.rem(*jnp.broadcast_arrays(x, y))
    quotient = (x - rest) / y
    quotient = quotient - jnp.where((rest != 0) & ((y < 0) != (rest < 0)), 1, 0).astype(quotient.dtype)
    floor = jnp.floor(quotient)
    floor = jnp.where(quotient - floor > 0.5, floor + 1, floor)
    floor = jnp.where(quotient == 0, jnp.copysign(jnp.zeros_like(floor), x / y), floor)
    return jnp.where(y == 0, x / y, floor)


def _shift_left(x: Any, count: Any) -> Any:
    """Shifts left; a negative count, or one of the dtype's width or more, gives 0."""
    return jnp.where(_within_width(x, count), jnp.left_shift(x, count), jnp.zeros_like(x))


def _shift_right(x: Any, count: Any) -> Any:
    """Shifts right with the sign; a negative count, or one of the width or more, leaves the sign only."""
    last = np.asarray(x.dtype.itemsize * 8 - 1, x.dtype)
    sign = jnp.right_shift(x, last) if jnp.issubdtype(x.dtype, jnp.signedinteger) else jnp.zeros_like(x)
    return jnp.where(_within_width(x, count), jnp.right_shift(x, count), sign)


def _within_width(x: Any, count: Any) -> Any:
    """Tells whether shift counts are in [0, width)."""
    return (count >= 0) & (count < x.dtype.itemsize * 8)


def _addcmul(out: Out, x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """Computes x + value a b."""
    return pointwise(lambda x, a, b, v: x + v * a * b)(out, x, a, b, value)


def _addcdiv(out: Out, x: Any, a: Any, b: Any, *, value: Any = 1) -> Any:
    """Computes x + value a / b."""
    return pointwise(lambda x, a, b, v: x + v * a / b)(out, x, a, b, value)


def _lerp(start: Any, end: Any, weight: Any) -> Any:
    """Computes start + weight (end - start), from the nearer end as torch does."""
    step = end - start
    return jnp.where(jnp.abs(weight) < 0.5, start + weight * step, end - step * (1 - weight))


_MULTIPLY, _LEFT, _RIGHT = pointwise(jnp.multiply), pointwise(_shift_left), pointwise(_shift_right)

ARITHMETIC: Mapping[str, Entry] = MappingProxyType({
    "add.Tensor": _add,
    "add.Scalar": _add,
    "sub.Tensor": _sub,
    "sub.Scalar": _sub,
    "rsub.Tensor": _rsub,
    "rsub.Scalar": _rsub,
    "mul.Tensor": _MULTIPLY,
    "mul.Scalar": _MULTIPLY,
    "div.Tensor": _div,
    "div.Scalar": _div,
    "div.Tensor_mode": _div,
    "div.Scalar_mode": _div,
    "floor_divide.default": _floor_divide,
    "floor_divide.Scalar": _floor_divide,
    "remainder.Tensor": _remainder,
    "remainder.Scalar": _remainder,
    "remainder.Scalar_Tensor": _remainder,
    "fmod.Tensor": _fmod,
    "fmod.Scalar": _fmod,
    "pow.Tensor_Scalar": _power,
    "pow.Tensor_Tensor": _power,
    "pow.Scalar": _power,
    "maximum.default": pointwise(jnp.maximum),
    "minimum.default": pointwise(jnp.minimum),
    "fmax.default": pointwise(jnp.fmax),
    "fmin.default": pointwise(jnp.fmin),
    "addcmul.default": _addcmul,
    "addcdiv.default": _addcdiv,
    "lerp.Scalar": pointwise(_lerp),
    "lerp.Tensor": pointwise(_lerp),
    "bitwise_left_shift.Tensor": _LEFT,
    "bitwise_left_shift.Tensor_Scalar": _LEFT,
    "__lshift__.Tensor": _LEFT,
    "__lshift__.Scalar": _LEFT,
    "bitwise_right_shift.Tensor": _RIGHT,
    "bitwise_right_shift.Tensor_Scalar": _RIGHT,
    "__rshift__.Tensor": _RIGHT,
    "__rshift__.Scalar": _RIGHT,
})  # fmt: skip
"""Operation -> entry."""
