"""AdEMAMix: Adam with a second, much slower mean of gradients.

Shape letters: none; elementwise on each leaf.

Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", 2024.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.number import is_int
from pure.optim.base import (
    Scalar,
    ScalarOrSchedule,
    bias_correction,
    chain,
    increment,
    map_unzip,
    safe_sqrt,
    upcast,
    zero_count,
)
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask
from pure.optim.scale import scale_by_learning_rate, schedule_value
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Schedule, Tree


class ScaleByAdemamixState(NamedTuple):
    """Two counts, a fast and a slow mean of gradients, and the mean of squares."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    count_m2: Tensor  # [] int32  the same, read by the schedules of b3 and alpha
    m1: Tree  # fast mean of the gradient, like the params
    m2: Tree  # slow mean of the gradient
    nu: Tree  # mean of its square


def ademamix(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds AdEMAMix: AdamW whose momentum is a mixture of a fast and a slow mean of gradients.

    One mean cannot both follow the newest gradient and average thousands of old ones; two can.

        u = -learning_rate ((m1_hat + alpha m2) / (√(nu_hat + eps_root) + eps) + weight_decay p)

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        b1: decay of the fast mean, in [0, 1).
        b2: decay of the mean of squares, in [0, 1).
        b3: decay of the slow mean, in [0, 1); a number, a [] tensor or a schedule, such as
            `half_life_schedule`. 0.9999 remembers 10,000 steps; take less for a shorter run, such as 0.999.
        alpha: weight of the slow mean, >= 0; a schedule, such as `linear_schedule(0.0, 5.0, steps)`, keeps
            the first steps stable.
        eps: added to the denominator, outside the root.
        eps_root: added inside the root.
        mu_dtype: storage of all three means; None stores them like the params.
        weight_decay, mask: as in `adamw`.

    Returns:
        GradientTransformation with state (ScaleByAdemamixState, state of the weight decay, state of the
        learning rate).

    Raises:
        ValueError: for a decay outside [0, 1), or a negative number; at the update, if params are missing and
            decay.

    Example:
        At the first step m1_hat = g, and m2 = (1 - 0.9) g: 1 + 5 * 0.1 times Adam's step.

        >>> opt, params = ademamix(0.1, b3=0.9), torch.tensor([2.0])
        >>> opt.update(torch.tensor([30.0]), opt.init(params), params)[0]
        tensor([-0.1500])

    Source: Pagliardini et al. 2024, algorithm 1; defaults are those of optax.contrib.ademamix.
    """
    check_not_negative("ademamix", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_ademamix(
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 6.0,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds the rescaling of `ademamix`, without the learning rate; `ademamix_update` has the formulas.

    Args:
        b1, b2, b3, alpha, eps, eps_root, mu_dtype: as in `ademamix`.

    Returns:
        GradientTransformation with state ScaleByAdemamixState; updates are not negated.

    Raises:
        ValueError: for a decay outside [0, 1), or a negative number.
    """
    check_fraction("scale_by_ademamix", b1=b1, b2=b2)
    if not callable(b3):
        check_fraction("scale_by_ademamix", b3=b3)
    check_not_negative("scale_by_ademamix", alpha=alpha, eps=eps, eps_root=eps_root)
    check_dtype("scale_by_ademamix", mu_dtype=mu_dtype)
    update = partial(ademamix_update, b1=b1, b2=b2, b3=b3, alpha=alpha, eps=eps, eps_root=eps_root)
    return GradientTransformation(partial(ademamix_init, mu_dtype=mu_dtype), elementwise(update))


def half_life_schedule(b1: float, b3: float, steps: int) -> Schedule:
    """Makes the schedule of b3: from b1 to b3, so that the half-life of the mean grows linearly.

    A linear schedule of the decay itself would reach long memories only at its very end.

        h(b) = ln 0.5 / ln b - 1,  the half-life;    h(b3(t)) = (1 - t/steps) h(b1) + (t/steps) h(b3)

    Args:
        b1: first value, in (0, 1).
        b3: last value, in (0, 1).
        steps: length, >= 1; afterwards the value stays b3.

    Returns:
        A function from the count [] to the decay [] float32.

    Raises:
        ValueError: for a decay outside (0, 1), or steps < 1.

    Example:
        0.5 has the half-life 0, and √0.5 has 1; after half of the steps it is 0.5: 0.5 ** (1 / 1.5).

        >>> halfway = half_life_schedule(0.5, 0.5**0.5, 10)(torch.tensor(5))
        >>> round(halfway.item(), 4), round(0.5 ** (1 / 1.5), 4)
        (0.63, 0.63)

    Source: Pagliardini et al. 2024, section 3 and appendix A.1.
    """
    check_fraction("half_life_schedule", b1=b1, b3=b3)
    if b1 == 0 or b3 == 0:
        raise ValueError(f"half_life_schedule: b1 and b3 must be in (0, 1), got {b1} and {b3}")
    if not is_int(steps) or steps < 1:
        raise ValueError(f"half_life_schedule: steps must be an int >= 1, got {steps!r}")
    return partial(half_life_value, b1=b1, b3=b3, steps=steps)


def half_life_value(count: Tensor, *, b1: float, b3: float, steps: int) -> Tensor:
    """Computes b3 at `count` [] int32; 1 / ln b3 is linear in the count."""
    share = count.to(torch.float32).clamp(max=steps) / steps
    return torch.exp(1 / ((1 - share) / math.log(b1) + share / math.log(b3)))


def ademamix_init(params: Tree, *, mu_dtype: torch.dtype | None = None) -> ScaleByAdemamixState:
    """Initialises the three means with zeros."""
    m1, m2, nu = (tree.zeros_like(params, dtype=mu_dtype) for _ in range(3))
    return ScaleByAdemamixState(zero_count(params), zero_count(params), m1, m2, nu)


def ademamix_update(
    updates: Tree,
    state: ScaleByAdemamixState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    b3: ScalarOrSchedule,
    alpha: ScalarOrSchedule,
    eps: Scalar,
    eps_root: Scalar,
    **extra: Any,
) -> tuple[Tree, ScaleByAdemamixState]:
    """Divides the sum of the fast mean and alpha times the slow one by the root of the mean square.

        m1 ← (1 - b1) g + b1 m1;   m2 ← (1 - b3) g + b3 m2;   nu ← (1 - b2) g² + b2 nu
        update = (m1 / (1 - b1^t) + alpha m2) / (√(nu / (1 - b2^t) + eps_root) + eps)

    Args:
        updates: tree of gradients g.
        state: ScaleByAdemamixState after t - 1 updates.
        params, extra: not used.
        b1, b2, b3, alpha, eps, eps_root: as in `ademamix`; schedules read the count before this update.

    Returns:
        (updates, state); updates are not negated.

    Edge cases: the slow mean is not corrected for its start at 0, so that it grows slowly.

    Source: Pagliardini et al. 2024, algorithm 1; order of operations as in optax.
    """
    del params, extra
    count, dtype = increment(state.count), tree.shared_dtype(updates)
    slow, weight = schedule_value(b3, state.count_m2), schedule_value(alpha, state.count_m2)
    corrections = [bias_correction(decay, count, dtype) for decay in (b1, b2)]

    def leaf(g: Tensor, m1: Tensor, m2: Tensor, nu: Tensor) -> tuple[Tensor, ...]:
        x = upcast(g)
        means = (
            (1 - b1) * x + b1 * upcast(m1),
            (1 - slow) * x + slow * upcast(m2),
            (1 - b2) * x.square() + b2 * upcast(nu),
        )
        fast, square = (m / c.to(m.dtype) for m, c in zip((means[0], means[2]), corrections, strict=True))
        step = (fast + weight * means[1]) / (safe_sqrt(square + eps_root) + eps)
        stored = [new.to(old.dtype) for new, old in zip(means, (m1, m2, nu), strict=True)]
        return step.to(torch.promote_types(g.dtype, m1.dtype)), *stored

    steps, m1, m2, nu = map_unzip(4, leaf, updates, state.m1, state.m2, state.nu)
    return steps, ScaleByAdemamixState(count, increment(state.count_m2), m1, m2, nu)
