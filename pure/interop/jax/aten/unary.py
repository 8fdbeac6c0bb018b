"""Elementwise functions of one operand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, compute_dtype, is_float, pointwise, to_dtype


def _cast(out: Out, x: Any, **kwargs: Any) -> Any:
    """Converts to the traced dtype; device and layout have no meaning in jax."""
    del kwargs
    return jnp.asarray(to_dtype(x, out.dtype))


def absolute(x: Any) -> Any:
    """Computes abs(x), whose gradient at 0 is 0 as in torch; that of jnp.abs is 1."""
    return x * jnp.sign(x)


def _round_decimals(out: Out, x: Any, *, decimals: int = 0) -> Any:
    """Rounds half to even, at a number of decimals."""
    dtype = compute_dtype(out.dtype)
    scale = jnp.asarray(10.0 ** abs(decimals), dtype)
    wide = x.astype(dtype)
    rounded = jnp.round(wide * scale) / scale if decimals >= 0 else jnp.round(wide / scale) * scale
    return rounded.astype(out.dtype)


def _float_test(function: Any, integer: bool) -> Any:
    """Builds the entry of a test for NaN or infinity; integers give `integer` everywhere."""

    def test_float(out: Out, x: Any) -> Any:
        return function(x) if is_float(x.dtype) else jnp.full(out.shape, integer)

    return test_float


def _sign(x: Any) -> Any:
    """Computes -1, 0 or 1; torch's sign of NaN is 0."""
    return jnp.where(x > 0, 1, jnp.where(x < 0, -1, 0)).astype(x.dtype)


def _round_integers(function: Any) -> Any:
    """Builds a rounding function that leaves integers as they are."""
    return pointwise(lambda x: function(x) if is_float(x.dtype) else x)


UNARY: Mapping[str, Entry] = MappingProxyType({
    "_to_copy.default": _cast,
    "abs.default": pointwise(absolute),
    "neg.default": pointwise(jnp.negative),
    "sign.default": pointwise(_sign),
    "sgn.default": pointwise(_sign),
    "reciprocal.default": pointwise(lambda x: 1 / x),
    "square.default": pointwise(jnp.square),
    "exp.default": pointwise(jnp.exp),
    "exp2.default": pointwise(jnp.exp2),
    "expm1.default": pointwise(jnp.expm1),
    "log.default": pointwise(jnp.log),
    "log2.default": pointwise(jnp.log2),
    "log10.default": pointwise(jnp.log10),
    "log1p.default": pointwise(jnp.log1p),
    "sqrt.default": pointwise(jnp.sqrt),
    "rsqrt.default": pointwise(lax.rsqrt),
    "sin.default": pointwise(jnp.sin),
    "cos.default": pointwise(jnp.cos),
    "tan.default": pointwise(jnp.tan),
    "tanh.default": pointwise(jnp.tanh),
    "erf.default": pointwise(lax.erf),
    "erfinv.default": pointwise(lax.erf_inv),
    "sigmoid.default": pointwise(jax.nn.sigmoid),
    "floor.default": _round_integers(jnp.floor),
    "ceil.default": _round_integers(jnp.ceil),
    "trunc.default": _round_integers(jnp.trunc),
    "round.default": _round_integers(jnp.round),
    "round.decimals": _round_decimals,
    "isnan.default": _float_test(jnp.isnan, False),
    "isinf.default": _float_test(jnp.isinf, False),
    "isfinite.default": _float_test(jnp.isfinite, True),
    "bitwise_not.default": pointwise(jnp.bitwise_not),
    "logical_not.default": lambda out, x: jnp.logical_not(x),
})  # fmt: skip
"""Operation -> entry."""
