"""Matrix products, at the highest precision: accelerators would round float32 to fewer bits by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pure.interop.jax.aten.reduction import REDUCTION
from pure.interop.jax.aten.result import (
    Entry,
    Out,
    compute_dtype,
    compute_wide,
    is_float,
    pull_back,
    to_dtype,
)


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


def _convolution(
    out: Out,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Convolves [N, C, ...] with [O, C / groups, ...]; transposed is refused."""
    del output_padding
    if transposed:
        raise NotImplementedError(
            "convolution: expected transposed=False, got True; write unfold and a product"
        )
    y = lax.conv_general_dilated(
        x,
        weight,
        tuple(stride),
        [(p, p) for p in padding],
        rhs_dilation=tuple(dilation),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )
    y = y if bias is None else y + jnp.reshape(bias, (1, -1, *[1] * (x.ndim - 2)))
    return y.astype(out.dtype)


def _convolution_backward(
    out: Sequence[Out | None], g: Any, x: Any, weight: Any, bias_sizes: Any, *options: Any
) -> tuple:
    """Gradients to input, weight and bias; the last option says which are needed."""
    del bias_sizes
    made = Out(g.shape, g.dtype)
    forward: Callable = lambda x, w: _convolution(made, x, w, None, *options[:-1])  # noqa: E731
    _, pull = jax.vjp(forward, x, weight)
    grads = (*pull(g), jnp.sum(g, (0, *range(2, g.ndim))))
    return tuple(grad if o is not None else None for grad, o in zip(grads, out, strict=True))


def _cross(out: Out, a: Any, b: Any, *, dim: int = -1) -> Any:
    """The cross product of vectors of three numbers along an axis."""
    a, b = jnp.broadcast_arrays(a.astype(out.dtype), b.astype(out.dtype))
    return jnp.cross(a, b, axis=dim)


def _distances(a: Any, b: Any, order: float = 2.0, mode: int | None = None) -> Any:
    """Distances of all rows of a [..., P, D] from all rows of b [..., R, D]; where 0, without a gradient."""
    del mode
    apart = a[..., :, None, :] - b[..., None, :, :].astype(a.dtype)
    return REDUCTION["linalg_vector_norm.default"](Out((), a.dtype), apart, order, [-1])


def _distances_backward(out: Out, g: Any, a: Any, b: Any, order: float, distances: Any) -> Any:
    """The gradient to a."""
    del distances
    return pull_back(_distances)(out, g, a, b, order)


PRODUCT: Mapping[str, Entry] = MappingProxyType({
    "mm.default": _matmul,
    "bmm.default": _matmul,
    "mv.default": _matmul,
    "dot.default": _matmul,
    "matmul.default": _matmul,
    "linear.default": _linear,
    "convolution.default": _convolution,
    "convolution_backward.default": _convolution_backward,
    "linalg_cross.default": _cross,
    "_cdist_forward.default": compute_wide(_distances),
    "_cdist_backward.default": _distances_backward,
    "addmm.default": _addmm,
    "addmv.default": _addmm,
    "baddbmm.default": _addmm,
})  # fmt: skip
"""Operation -> entry."""
