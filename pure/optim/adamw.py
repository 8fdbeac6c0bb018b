"""Adam and AdamW: steps of about the same size in every coordinate, whatever the scale of its gradient.

Shape letters: none; every formula is elementwise, and is applied to each leaf of the tree.

Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", 2019, algorithm 2; Dozat, "Incorporating Nesterov Momentum into
Adam", 2016.
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
    corrected_mean,
    increment,
    map_unzip,
    mean_correction,
    safe_sqrt,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


class ScaleByAdamState(NamedTuple):
    """Count of updates, and both moments of Adam."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params
    nu: Tree  # running mean of its square, like the params


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Builds AdamW: Adam with decoupled weight decay.

    The default optimizer of language models. Decay added to the gradient (as in `adam` with an L2 penalty)
    would be divided by √nu, so weak where gradients are large; added after that division it is the same for
    all weights.

        u = -learning_rate (mu_hat / (√(nu_hat + eps_root) + eps) + weight_decay p)

    Args:
        learning_rate: step length, >= 0; a number, a [] tensor or a schedule.
        b1: decay of the mean of gradients, in [0, 1).
        b2: decay of the mean of squares, in [0, 1); 0.95 is common for language models.
        eps: added to the denominator, outside the root, > 0.
        eps_root: added inside the root; needed to differentiate through the update.
        mu_dtype: storage of mu; None stores it like the params.
        weight_decay: per unit of learning rate, >= 0; a number, a [] tensor or a schedule. 0.1 is common for
            language models.
        mask: which leaves decay: a tree of bools like the params (or a prefix of it), or a function from
            params to one, such as `decay_mask`. None decays all.
        nesterov: use Nesterov's mean (NAdam).

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the weight decay, state of the learning
        rate): the last two are EmptyState(), or {count} for schedules; under a mask the second is inside a
        MaskedState.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), a negative learning_rate, eps or weight_decay; at the update,
            if params are missing.

    Example:
        The first step is learning_rate, whatever the gradient; decay adds 0.1 * 0.01 * 2.

        >>> opt = adamw(0.1, weight_decay=0.01)
        >>> params = torch.tensor([2.0])
        >>> updates, state = opt.update(torch.tensor([30.0]), opt.init(params), params)
        >>> updates
        tensor([-0.1020])

    Edge cases: with bfloat16 params nu is bfloat16, whose rounding (at least 0.2%) is coarser than the decay
    of 0.1% by b2 = 0.999, so nu never decays, as in optax. Use float32 params, and cast them in the forward
    pass.

    Source: Loshchilov and Hutter 2019, algorithm 2. Differs from it: decay is multiplied by the learning
    rate, as in optax and torch, and not by the schedule alone.
    """
    check_not_negative("adamw", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Builds Adam: `adamw` without weight decay.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adamw`.

    Returns:
        GradientTransformation with state (ScaleByAdamState, state of the learning rate).

    Example:
        >>> opt = adam(0.1)
        >>> opt.update(torch.tensor([-7.0]), opt.init(torch.tensor([2.0])))[0]
        tensor([0.1000])
    """
    check_not_negative("adam", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_adam(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Builds Adam's rescaling of gradients, without the learning rate; `adam_update` has the formulas.

    Args:
        b1, b2, eps, eps_root, mu_dtype, nesterov: as in `adamw`.

    Returns:
        GradientTransformation with state ScaleByAdamState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or a negative eps.
    """
    check_fraction("scale_by_adam", b1=b1, b2=b2)
    check_not_negative("scale_by_adam", eps=eps, eps_root=eps_root)
    check_dtype("scale_by_adam", mu_dtype=mu_dtype)
    return GradientTransformation(
        partial(adam_init, mu_dtype=mu_dtype),
        elementwise(partial(adam_update, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)),
    )


def adam_init(params: Tree, *, mu_dtype: torch.dtype | None = None) -> ScaleByAdamState:
    """Initialises both moments with zeros."""
    return ScaleByAdamState(
        count=zero_count(params), mu=tree.zeros_like(params, dtype=mu_dtype), nu=tree.zeros_like(params)
    )


def adam_update(
    updates: Tree,
    state: ScaleByAdamState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    nesterov: bool,
    **extra: Any,
) -> tuple[Tree, ScaleByAdamState]:
    """Divides the mean gradient by the root of the mean square, both corrected for their start at zero.

    A coordinate whose gradients agree in sign moves by about 1, one whose gradients cancel by about 0.

        mu     ← (1 - b1) g  + b1 mu            mu_hat = mu / (1 - b1^t)
        nu     ← (1 - b2) g² + b2 nu            nu_hat = nu / (1 - b2^t)
        update = mu_hat / (√(nu_hat + eps_root) + eps)

        nesterov:  mu_hat = b1 mu / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)

    Args:
        updates: tree of gradients g.
        state: ScaleByAdamState after t - 1 updates.
        params: not used.
        b1, b2: decays of mu and nu, in [0, 1); a number or a [] tensor, as are the next two.
        eps: added to the denominator, outside the root.
        eps_root: added inside the root.
        nesterov: use the mean of the last line.
        extra: not used.

    Returns:
        (updates, state): updates of the widest dtype among g, mu and nu, not negated (they have the sign of
        the gradient); the state's dtypes are kept.

    Steps:
        1. Count this update: t by `increment(state.count)`. The corrections that all leaves share, [] each:
            `mean_correction(b1, t, dtype, nesterov)` and `bias_correction(b2, t, dtype)`, with dtype
            `tree.shared_dtype(updates)`.
        2. New mu and nu of each leaf, in at least float32 (`upcast`).
        3. Quotient: mu_hat by `corrected_mean(g, mu, b1, correction)`, which has both formulas; nu_hat is nu
            divided by its correction, cast to the dtype of nu; the root is `safe_sqrt(x)`.
        4. Cast: the quotient to the widest dtype, mu and nu to those of the old ones. Trees of all three by
            `map_unzip(3, leaf, updates, state.mu, state.nu)`, whose leaf(g, mu, nu) takes steps 2 to 4.

    Edge cases: gradients that were always 0 give 0 (0 / eps), unless eps is 0 too.

    Example:
        g = 3 at the first step: mu_hat = 3, nu_hat = 9, so 3 / (3 + 1).

        >>> opt = scale_by_adam(eps=1.0)
        >>> opt.update(torch.tensor([3.0]), opt.init(torch.tensor([0.0])))[0]
        tensor([0.7500])

    Source: Kingma and Ba 2015, algorithm 1; order of operations as in optax.
    """
    del params, extra
    # 1. Count and corrections.
    count, dtype = increment(state.count), tree.shared_dtype(updates)
    mu_correction = mean_correction(b1, count, dtype, nesterov)
    nu_correction = bias_correction(b2, count, dtype)

    def leaf(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # 2. Moments, in the shape of the leaf.
        grad = upcast(g)
        mu = (1 - b1) * grad + b1 * upcast(m)
        nu = (1 - b2) * grad.square() + b2 * upcast(v)
        # 3. Quotient of the corrected means.
        mu_hat = corrected_mean(grad, mu, b1, mu_correction)
        step = mu_hat / (safe_sqrt(nu / nu_correction.to(nu.dtype) + eps_root) + eps)
        # 4. Dtypes, and trees.
        out_dtype = torch.promote_types(torch.promote_types(g.dtype, m.dtype), v.dtype)
        return step.to(out_dtype), mu.to(m.dtype), nu.to(v.dtype)

    steps, mu, nu = map_unzip(3, leaf, updates, state.mu, state.nu)
    return steps, ScaleByAdamState(count=count, mu=mu, nu=nu)
