"""Special functions, of one operand and of two."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from pure.interop.jax.aten.result import Entry, Out, compute_wide, is_float, pointwise, pull_back, to_dtype


def _logit(x: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)), with x limited to [eps, 1 - eps]; beyond the limits the gradient is 0."""
    if eps is not None:
        inside = (x >= eps) & (x <= 1 - eps)
        x = jnp.where(inside, x, jnp.clip(lax.stop_gradient(x), eps, 1 - eps))
    return jnp.log(x / (1 - x))


def _nan_to_num(
    out: Out,
    x: Any,
    nan: float | None = None,
    high: float | None = None,
    low: float | None = None,
    **names: Any,
) -> Any:
    """Replaces NaN by a number (0) and infinities by numbers (the largest of the dtype)."""
    high, low = names.get("posinf", high), names.get("neginf", low)
    if not is_float(out.dtype):
        return x
    bounds = jnp.finfo(out.dtype)
    x = jnp.where(jnp.isnan(x), to_dtype(0.0 if nan is None else nan, out.dtype), x)
    x = jnp.where(x == jnp.inf, bounds.max if high is None else to_dtype(high, out.dtype), x)
    return jnp.where(x == -jnp.inf, bounds.min if low is None else to_dtype(low, out.dtype), x)


@jax.custom_jvp
def _entropy_term(x: Any) -> Any:
    """-x log(x); 0 at 0, where its derivative is infinite, and minus infinity below."""
    return jnp.where(x == 0, 0, jnp.where(x < 0, -jnp.inf, -x * jnp.log(x)))


@_entropy_term.defjvp
def _entropy_term_jvp(primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """The derivative, -log(x) - 1."""
    (x,), (dx,) = primals, tangents
    return _entropy_term(x), dx * (-jnp.log(x) - 1)


def _xlogy(x: Any, y: Any) -> Any:
    """x log(y); 0 where x is 0 and the logarithm is not finite, unless y is NaN."""
    zero = (x == 0) & ((y <= 0) | (y == jnp.inf))
    return jnp.where(zero, 0, x * jnp.log(jnp.where(zero, 1, y)))


def _xlog1py(x: Any, y: Any) -> Any:
    """x log(1 + y); 0 where x is 0 and the logarithm is not finite, unless y is NaN."""
    zero = (x == 0) & ((y <= -1) | (y == jnp.inf))
    return jnp.where(zero, 0, x * jnp.log1p(jnp.where(zero, 0, y)))


def _copysign(x: Any, y: Any) -> Any:
    """abs(x) with the sign of y; the gradient goes to x, and is 0 at 0."""
    return x * lax.stop_gradient(jnp.sign(x) * jnp.copysign(jnp.ones_like(y), y)) + jnp.where(
        x == 0, jnp.copysign(jnp.zeros_like(y), y), 0
    )


def _atan2(y: Any, x: Any) -> Any:
    """The angle of (x, y); at the origin its gradient is 0."""
    origin = (x == 0) & (y == 0)
    safe = jnp.arctan2(jnp.where(origin, 0, y), jnp.where(origin, 1, x))
    return jnp.where(origin, lax.stop_gradient(jnp.arctan2(y, x)), safe)


def _polygamma(out: Out, order: int, x: Any) -> Any:
    """The derivative of that order of digamma."""
    wide = compute_wide(lambda v: special.polygamma(order, v) if order else special.digamma(v))
    return wide(out, x)


def _signbit(out: Out, x: Any) -> Any:
    """Tells whether the sign is negative, that of -0.0 too."""
    if is_float(x.dtype):
        return jnp.signbit(x)
    return jnp.zeros(out.shape, bool) if x.dtype == bool else x < 0


_XLOGY, _COPYSIGN = pointwise(_xlogy), pointwise(_copysign)

SPECIAL: Mapping[str, Entry] = MappingProxyType({
    "acos.default": pointwise(jnp.arccos),
    "asin.default": pointwise(jnp.arcsin),
    "atan.default": pointwise(jnp.arctan),
    "sinh.default": pointwise(jnp.sinh),
    "cosh.default": pointwise(jnp.cosh),
    "asinh.default": pointwise(jnp.arcsinh),
    "acosh.default": pointwise(jnp.arccosh),
    "atanh.default": pointwise(jnp.arctanh),
    "deg2rad.default": pointwise(jnp.deg2rad),
    "rad2deg.default": pointwise(jnp.rad2deg),
    "erfc.default": pointwise(lax.erfc),
    "lgamma.default": pointwise(lax.lgamma),
    "digamma.default": pointwise(lax.digamma),
    "polygamma.default": _polygamma,
    "i0.default": pointwise(special.i0),
    "special_i1.default": pointwise(special.i1),
    "sinc.default": pointwise(jnp.sinc),
    "special_entr.default": pointwise(_entropy_term),
    "special_log_ndtr.default": pointwise(special.log_ndtr),
    "special_ndtri.default": pointwise(special.ndtri),
    "frac.default": pointwise(lambda x: x - lax.stop_gradient(jnp.trunc(x))),
    "signbit.default": _signbit,
    "nan_to_num.default": _nan_to_num,
    "logit.default": compute_wide(_logit),
    "logit_backward.default": pull_back(_logit),
    "atan2.default": pointwise(_atan2),
    "hypot.default": pointwise(jnp.hypot),
    "logaddexp.default": pointwise(jnp.logaddexp),
    "logaddexp2.default": pointwise(jnp.logaddexp2),
    "xlogy.Tensor": _XLOGY,
    "xlogy.Scalar_Self": _XLOGY,
    "xlogy.Scalar_Other": _XLOGY,
    "special_xlog1py.default": pointwise(_xlog1py),
    "copysign.Tensor": _COPYSIGN,
    "copysign.Scalar": _COPYSIGN,
    "heaviside.default": pointwise(jnp.heaviside),
})  # fmt: skip
"""Operation -> entry."""
