"""The losses of torch.nn.functional that are one operation, and their backward.

`reduction` is torch's number: 0 keeps every element, 1 is the mean, 2 the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from pure.interop.jax.aten.result import Entry, Out, compute_dtype, compute_wide, pull_back
from pure.interop.jax.aten.unary import absolute


def _reduce_loss(x: Any, reduction: int) -> Any:
    """Every element, their mean, or their sum."""
    if reduction == 0:
        return x
    return jnp.mean(x) if reduction == 1 else jnp.sum(x)


def _mse(x: Any, target: Any, reduction: int = 1) -> Any:
    """The squared error."""
    return _reduce_loss(jnp.square(x - target.astype(x.dtype)), reduction)


def _smooth_l1(x: Any, target: Any, reduction: int = 1, beta: float = 1.0) -> Any:
    """0.5 d^2 / beta for an error d below beta, else d - 0.5 beta."""
    error = absolute(x - target.astype(x.dtype))
    if beta == 0:
        return _reduce_loss(error, reduction)
    return _reduce_loss(jnp.where(error < beta, 0.5 * error * error / beta, error - 0.5 * beta), reduction)


def _huber(x: Any, target: Any, reduction: int = 1, delta: float = 1.0) -> Any:
    """0.5 d^2 for an error d up to delta, else delta (d - 0.5 delta)."""
    error = absolute(x - target.astype(x.dtype))
    return _reduce_loss(
        jnp.where(error <= delta, 0.5 * error * error, delta * (error - 0.5 * delta)), reduction
    )


def _soft_margin(x: Any, target: Any, reduction: int = 1) -> Any:
    """log(1 + exp(-target x))."""
    return _reduce_loss(jnp.log1p(jnp.exp(-target.astype(x.dtype) * x)), reduction)


def _bce(x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    """Binary cross-entropy of probabilities; each logarithm is at least -100, as in torch."""
    loss = _entropy(x, target.astype(x.dtype))
    return _reduce_loss(loss if weight is None else loss * weight.astype(x.dtype), reduction)


@jax.custom_jvp
def _entropy(x: Any, target: Any) -> Any:
    """Binary cross-entropy of each probability."""
    yes, no = jnp.maximum(jnp.log(x), -100), jnp.maximum(jnp.log1p(-x), -100)
    return (target - 1) * no - target * yes


def _entropy_jvp(primals: tuple, tangents: tuple) -> tuple:
    """The derivative as torch has it: that for x is finite for probabilities of 0 and 1."""
    x, target = primals
    slopes = (lambda: _entropy_slope(x, target)), (lambda: jnp.log1p(-x) - jnp.log(x))
    parts = [slope() * d for slope, d in zip(slopes, tangents, strict=True) if type(d) is not SymbolicZero]
    return _entropy(x, target), sum(parts[1:], start=parts[0])


_entropy.defjvp(_entropy_jvp, symbolic_zeros=True)  # an infinite slope times an absent tangent is not NaN


def _entropy_slope(x: Any, target: Any) -> Any:
    """(x - target) / max(x (1 - x), 1e-12)."""
    return (x - target) / jnp.maximum((1 - x) * x, 1e-12)


def _bce_backward(out: Out, g: Any, x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    """The gradient of binary cross-entropy, g (x - target) / max(x (1 - x), 1e-12)."""
    dtype = compute_dtype(out.dtype)
    x = x.astype(dtype)
    slope = _entropy_slope(x, target.astype(dtype))
    slope = slope if weight is None else slope * weight.astype(dtype)
    slope = slope / x.size if reduction == 1 else slope
    return (g.astype(dtype) * slope).astype(out.dtype)


def _bce_with_logits(
    x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1
) -> Any:
    """Binary cross-entropy of logits; `pos_weight` multiplies the loss of what is true."""
    target = target.astype(x.dtype)
    factor = 1 if pos_weight is None else (pos_weight.astype(x.dtype) - 1) * target + 1
    loss = (1 - target) * x + factor * jax.nn.softplus(-x)
    return _reduce_loss(loss if weight is None else loss * weight.astype(x.dtype), reduction)


def _nll(x: Any, target: Any, weight: Any, reduction: int, ignored: int, axis: int) -> tuple[Any, Any]:
    """The negative log-likelihood of targets along an axis, and the total weight of those counted.

    A target that is neither `ignored` nor a class gives NaN.
    """
    classes = x.shape[axis]
    counted = target != ignored
    bad = counted & ((target < 0) | (target >= classes))
    label = jnp.where(counted & ~bad, target, 0)
    scale = jnp.ones(classes, x.dtype) if weight is None else weight.astype(x.dtype)
    factor = jnp.where(counted, scale[label], 0)
    chosen = jnp.take_along_axis(x, jnp.expand_dims(label, axis), axis)
    loss = jnp.where(counted, -jnp.squeeze(chosen, axis) * factor, 0)
    loss = jnp.where(bad, jnp.nan, loss)
    total = jnp.sum(factor)
    if reduction == 0:
        return loss, jnp.zeros((), x.dtype)
    return jnp.sum(loss) / total if reduction == 1 else jnp.sum(loss), total


def _nll_forward(
    out: tuple[Out, Out], x: Any, target: Any, weight: Any, reduction: int, ignored: int
) -> tuple[Any, Any]:
    """The loss of [N, C] or [C], and the total weight."""
    wide = x.astype(compute_dtype(out[0].dtype))
    loss, total = _nll(wide, target, weight, reduction, ignored, _class_axis(x))
    return loss.astype(out[0].dtype), total.astype(out[1].dtype)


def _nll_backward(
    out: Out, g: Any, x: Any, target: Any, weight: Any, reduction: int, ignored: int, total: Any
) -> Any:
    """The gradient to the log-probabilities."""
    del total
    loss: Callable = lambda v: _nll(v, target, weight, reduction, ignored, _class_axis(x))[0]  # noqa: E731
    return pull_back(loss)(out, g, x)


def _class_axis(x: Any) -> int:
    """The axis of the classes: of [C] the only one, else the second."""
    return 0 if x.ndim == 1 else 1


LOSS: Mapping[str, Entry] = MappingProxyType({
    "mse_loss.default": compute_wide(_mse),
    "smooth_l1_loss.default": compute_wide(_smooth_l1),
    "huber_loss.default": compute_wide(_huber),
    "soft_margin_loss.default": compute_wide(_soft_margin),
    "binary_cross_entropy.default": compute_wide(_bce),
    "binary_cross_entropy_with_logits.default": compute_wide(_bce_with_logits),
    "nll_loss_forward.default": _nll_forward,
    "nll_loss2d_forward.default": _nll_forward,
    "mse_loss_backward.default": pull_back(_mse),
    "smooth_l1_loss_backward.default": pull_back(_smooth_l1),
    "huber_loss_backward.default": pull_back(_huber),
    "soft_margin_loss_backward.default": pull_back(_soft_margin),
    "binary_cross_entropy_backward.default": _bce_backward,
    "nll_loss_backward.default": _nll_backward,
    "nll_loss2d_backward.default": _nll_backward,
})  # fmt: skip
"""Operation -> entry."""
