"""RMSProp: the gradient divided by the root of a running mean of its square.

Shape letters: none; elementwise on each leaf.

Tieleman and Hinton, "Lecture 6.5: rmsprop", 2012; Graves, "Generating Sequences With Recurrent Neural
Networks", 2013, equations 38 to 45 (centered).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    identity,
    increment,
    map_unzip,
    safe_sqrt,
    upcast,
    zero_count,
)
from pure.optim.check import check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.scale import scale_by_learning_rate
from pure.optim.sgd import trace
from pure.types import GradientTransformation, Tree


class ScaleByRmsState(NamedTuple):
    """The running mean of squares."""

    nu: Tree  # like the params


class ScaleByRmsWithCountState(NamedTuple):
    """The running mean of squares, and the number of updates, for the bias correction."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    nu: Tree  # like the params


class ScaleByRStdDevState(NamedTuple):
    """The running means of the gradient and of its square."""

    mu: Tree  # like the params
    nu: Tree  # like the params


class ScaleByRStdDevWithCountState(NamedTuple):
    """Both running means, and the number of updates, for the bias correction."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # like the params
    nu: Tree  # like the params


def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Builds RMSProp, with or without momentum.

    Adam without the mean of the gradients: coordinates with large gradients take smaller steps.

        u = -learning_rate g / √(nu + eps),  then the velocity of momentum, as in `sgd`

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        decay: decay of the mean of squares, in [0, 1).
        eps: added to the denominator, > 0.
        initial_scale: initial value of the mean of squares, >= 0 (torch and optax start at 0, TensorFlow at
            1).
        eps_in_sqrt: add eps inside the root; False adds it outside, as torch does.
        centered: divide by the standard deviation: subtract the squared mean of the gradients.
        momentum: in [0, 1), decay of the velocity; None: no velocity.
        nesterov: use Nesterov's update in the velocity.
        bias_correction: correct the means for their start at zero.

    Returns:
        GradientTransformation with state (state of `scale_by_rms` or `scale_by_stddev`, state of the learning
        rate, TraceState or EmptyState).

    Raises:
        ValueError: for decay or momentum outside [0, 1), a negative learning_rate, eps or initial_scale.

    Example:
        The first mean of squares is 0.1 * 4, and 2 / √0.4 = 3.1623.

        >>> opt = rmsprop(0.1)
        >>> opt.update(torch.tensor([2.0]), opt.init(torch.tensor([0.0])))[0]
        tensor([-0.3162])

    Source: Tieleman and Hinton 2012. The learning rate precedes the momentum, as in optax; the order of torch
    is the same while the learning rate is constant.
    """
    check_not_negative("rmsprop", optional=True, learning_rate=learning_rate)
    scale_by = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


def scale_by_rms(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Builds RMSProp's division by the root mean square; `rms_update` has the formulas.

    Args:
        decay, eps, initial_scale, eps_in_sqrt, bias_correction: as in `rmsprop`.

    Returns:
        GradientTransformation with state ScaleByRmsState, or with bias_correction ScaleByRmsWithCountState;
        updates are not negated: chain `scale_by_learning_rate`.

    Raises:
        ValueError: for decay outside [0, 1), or a negative eps or initial_scale.
    """
    return _build("scale_by_rms", False, decay, eps, initial_scale, eps_in_sqrt, bias_correction)


def scale_by_stddev(
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """Builds the division by the running standard deviation (RMSProp, centered); see `rms_update`.

    Args:
        decay, eps, initial_scale, eps_in_sqrt, bias_correction: as in `rmsprop`.

    Returns:
        GradientTransformation with state ScaleByRStdDevState, or with bias_correction
        ScaleByRStdDevWithCountState; updates are not negated.

    Raises:
        ValueError: for decay outside [0, 1), or a negative eps or initial_scale.
    """
    return _build("scale_by_stddev", True, decay, eps, initial_scale, eps_in_sqrt, bias_correction)


RmsState = ScaleByRmsState | ScaleByRmsWithCountState | ScaleByRStdDevState | ScaleByRStdDevWithCountState


def rms_init(params: Tree, *, centered: bool, initial_scale: Scalar, with_count: bool) -> RmsState:
    """Initialises the mean with zeros and the mean of squares with `initial_scale`."""
    nu = tree.map(lambda p: torch.zeros_like(p) + initial_scale, params)
    nu = tree.map(lambda x, p: x.to(p.dtype), nu, params)
    means = {"mu": tree.zeros_like(params), "nu": nu} if centered else {"nu": nu}
    return _state(zero_count(params) if with_count else None, means)


def rms_update(
    updates: Tree,
    state: RmsState,
    params: Tree | None = None,
    *,
    decay: Scalar,
    eps: Scalar,
    eps_in_sqrt: bool,
    **extra: Any,
) -> tuple[Tree, RmsState]:
    """Divides gradients by the root of their mean square, or by their standard deviation.

        nu ← (1 - decay) g² + decay nu;     mu ← (1 - decay) g + decay mu  (centered only)
        both divided by 1 - decay^t, if the state has a count
        v = nu,  centered  max(nu - mu², 0)
        update = g / √(v + eps),  or without eps_in_sqrt  g / (√v + eps)

    Args:
        updates: tree of gradients g.
        state: the state that `rms_init` made; its class says if the means are corrected, and centered.
        params, extra: not used.
        decay, eps, eps_in_sqrt: as in `rmsprop`.

    Returns:
        (updates, state); updates are not negated.

    Steps:
        1. Count, and the correction that all leaves share.
        2. The means of each leaf, in float32 (float64 for float64).
        3. The quotient.

    Edge cases: rounding can make nu - mu² negative where gradients are constant; it counts as 0 (optax then
    returns NaN if it is below -eps).

    Source: Tieleman and Hinton 2012; Graves 2013, equations 38 to 45.
    """
    del params, extra
    # 1. Count and correction.
    with_count = isinstance(state, ScaleByRmsWithCountState | ScaleByRStdDevWithCountState)
    count = increment(state.count) if with_count else None  # type: ignore[arg-type]
    correction = None if count is None else bias_correction(decay, count, tree.shared_dtype(updates))

    def corrected(mean: Tensor) -> Tensor:
        return mean if correction is None else mean / correction.to(mean.dtype)

    def leaf(g: Tensor, v: Tensor, *m: Tensor) -> tuple[Tensor, ...]:
        # 2. Means.
        x = upcast(g)
        nu = (1 - decay) * x.square() + decay * upcast(v)
        mu = [(1 - decay) * x + decay * upcast(old) for old in m]
        variance = corrected(nu)
        if mu:
            variance = (variance - corrected(mu[0]).square()).clamp(min=0)
        # 3. Quotient.
        step = x * (variance + eps).rsqrt() if eps_in_sqrt else x / (safe_sqrt(variance) + eps)
        new_means = [new.to(old.dtype) for new, old in zip((nu, *mu), (v, *m), strict=True)]
        return step.to(torch.promote_types(g.dtype, v.dtype)), *new_means

    centered = isinstance(state, ScaleByRStdDevState | ScaleByRStdDevWithCountState)
    old = (state.nu, state.mu) if centered else (state.nu,)  # type: ignore[union-attr]
    steps, nu, *mu = map_unzip(1 + len(old), leaf, updates, *old)
    return steps, _state(count, {"mu": mu[0], "nu": nu} if centered else {"nu": nu})


def _build(
    caller: str,
    centered: bool,
    decay: Scalar,
    eps: Scalar,
    initial_scale: Scalar,
    eps_in_sqrt: bool,
    with_count: bool,
) -> GradientTransformation:
    """Checks the arguments of `scale_by_rms` or `scale_by_stddev`, and binds them."""
    check_fraction(caller, decay=decay)
    check_not_negative(caller, eps=eps, initial_scale=initial_scale)
    return GradientTransformation(
        partial(rms_init, centered=centered, initial_scale=initial_scale, with_count=with_count),
        elementwise(partial(rms_update, decay=decay, eps=eps, eps_in_sqrt=eps_in_sqrt)),
    )


def _state(count: Tensor | None, means: dict[str, Tree]) -> RmsState:
    """Builds the state of the class that has these fields."""
    if count is None:
        return ScaleByRStdDevState(**means) if "mu" in means else ScaleByRmsState(**means)
    if "mu" in means:
        return ScaleByRStdDevWithCountState(count=count, **means)
    return ScaleByRmsWithCountState(count=count, **means)
