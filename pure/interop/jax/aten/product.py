"""Matrix products, at the highest precision: accelerators would round float32 to fewer bits by default."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, compute_dtype, is_float, to_dtype


def _matmul(out: Out, a: Any, b: Any) -> Any:
    """Multiplies matrices, or stacks of them."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST).astype(out.dtype)


def _addmm(out: Out, c: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Computes beta c + alpha a b, rounded once; c broadcasts, and with beta = 0 is not read.

    Args:
        out: the traced result.
        c: what is added.
        a, b: the factors.
        beta, alpha: numbers.

    Returns:
        The sum in `out.dtype`.
    """
    dtype = compute_dtype(out.dtype)
    kind = dtype if is_float(dtype) else None
    product = jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=kind).astype(dtype)
    if alpha != 1:
        product = product * to_dtype(alpha, dtype)
    if beta == 0:
        return product.astype(out.dtype)
    rest = c.astype(dtype) if beta == 1 else c.astype(dtype) * to_dtype(beta, dtype)
    return (rest + product).astype(out.dtype)


def _linear(out: Out, x: Any, weight: Any, bias: Any = None) -> Any:
    """Computes x weight^T + bias."""
    if bias is None:
        return _matmul(out, x, jnp.swapaxes(weight, -1, -2))
    return _addmm(out, bias, x, jnp.swapaxes(weight, -1, -2))


PRODUCT: Mapping[str, Entry] = MappingProxyType({
    "mm.default": _matmul,
    "bmm.default": _matmul,
    "mv.default": _matmul,
    "dot.default": _matmul,
    "matmul.default": _matmul,
    "linear.default": _linear,
    "addmm.default": _addmm,
    "addmv.default": _addmm,
    "baddbmm.default": _addmm,
})  # fmt: skip
"""Operation -> entry."""
