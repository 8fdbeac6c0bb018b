"""Lion: steps of the same size in every coordinate; only the sign of the momentum is used.

Shape letters: none; elementwise on each leaf.

Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import Scalar, ScalarOrSchedule, chain, increment, map_unzip, upcast, zero_count
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.mask import Mask
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree

MODES = ("hard", "smooth", "refined")
"""Replacements of the sign function; see `scale_by_lion`."""


class ScaleByLionState(NamedTuple):
    """Count of updates, and the moment of Lion."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    mu: Tree  # running mean of the gradient, like the params


def lion(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds Lion: the sign of a mean of gradients, with decoupled weight decay.

    One moment instead of Adam's two. As every coordinate moves by the full learning rate, use a learning rate
    3 to 10 times smaller than for AdamW, and a decay larger by the same factor.

        u = -learning_rate (sign((1 - b1) g + b1 mu) + weight_decay p)

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        b1: weight of mu against the newest gradient in the step, in [0, 1).
        b2: decay of mu, in [0, 1).
        mu_dtype: storage of mu; None stores it like the params.
        weight_decay: >= 0; a number, a [] tensor or a schedule.
        mask: which leaves decay, as in `adamw`.

    Returns:
        GradientTransformation with state (ScaleByLionState, state of the weight decay, state of the learning
        rate).

    Raises:
        ValueError: for b1 or b2 outside [0, 1), negative learning_rate or weight_decay; at the update, if
            params is missing.

    Example:
        >>> opt = lion(0.1, weight_decay=0.25)
        >>> params = torch.tensor([2.0, 2.0])
        >>> opt.update(torch.tensor([0.001, -50.0]), opt.init(params), params)[0]
        tensor([-0.1500,  0.0500])

    Source: Chen et al. 2023, algorithm 2.
    """
    check_not_negative("lion", optional=True, learning_rate=learning_rate)
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def scale_by_lion(
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    mu_dtype: torch.dtype | None = None,
    *,
    mode: str = "hard",
    smooth_beta: float = 1.0,
) -> GradientTransformation:
    """Builds Lion's sign of the mean gradient, without the learning rate; `lion_update` has the formulas.

    Args:
        b1, b2, mu_dtype: as in `lion`.
        mode: "hard" is the sign; "smooth" tanh(smooth_beta x); "refined" clips to [-1, 1].
        smooth_beta: steepness of "smooth".

    Returns:
        GradientTransformation with state ScaleByLionState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for b1 or b2 outside [0, 1), or an unknown mode.
    """
    check_fraction("scale_by_lion", b1=b1, b2=b2)
    check_dtype("scale_by_lion", mu_dtype=mu_dtype)
    if mode not in MODES:
        raise ValueError(f"scale_by_lion: mode must be one of {', '.join(MODES)}, got {mode!r}")
    return GradientTransformation(
        partial(lion_init, mu_dtype=mu_dtype),
        elementwise(partial(lion_update, b1=b1, b2=b2, mode=mode, smooth_beta=smooth_beta)),
    )


def lion_init(params: Tree, *, mu_dtype: torch.dtype | None = None) -> ScaleByLionState:
    """Initialises the moment with zeros."""
    return ScaleByLionState(count=zero_count(params), mu=tree.zeros_like(params, dtype=mu_dtype))


def lion_update(
    updates: Tree,
    state: ScaleByLionState,
    params: Tree | None = None,
    *,
    b1: Scalar,
    b2: Scalar,
    mode: str = "hard",
    smooth_beta: float = 1.0,
    **extra: Any,
) -> tuple[Tree, ScaleByLionState]:
    """Takes the sign of a mean that weighs the newest gradient more than the stored mean does.

    Every coordinate moves by the same amount, as with Adam in its first step, but one moment is enough.

        update = sign((1 - b1) g + b1 mu),     mu is the stored mean, before this update
        mu     ← (1 - b2) g + b2 mu

    Args:
        updates: tree of gradients g.
        state: ScaleByLionState.
        params, extra: not used.
        b1: weight of mu in the update, in [0, 1); a number or a [] tensor.
        b2: decay of mu, in [0, 1); a number or a [] tensor.
        mode, smooth_beta: the sign or its replacement, as in `scale_by_lion`.

    Returns:
        (updates, state): -1, 0 or 1 in every coordinate ("hard"), with the sign of the mean, not negated, in
        the wider dtype of g and mu; the state keeps its dtypes.

    Steps:
        1. Update of each leaf: `_sign(mean, mode, smooth_beta)` of its mean with b1, in at least float32
            (`upcast`).
        2. New mu of each leaf, with b2, from the old one.
        3. Cast: the update to the wider dtype, mu to that of the old one. Trees of both by
            `map_unzip(2, leaf, updates, state.mu)`, whose leaf(g, mu) takes steps 1 to 3; the count by
            `increment(state.count)`.

    Edge cases: a coordinate whose mean is exactly 0 does not move.

    Example:
        The mean is 0.1 · 8 - 0.9 · 1 = -0.1, the new mu is 0.01 · 8 - 0.99 · 1 = -0.91.

        >>> state = ScaleByLionState(torch.tensor(0, dtype=torch.int32), torch.tensor([-1.0]))
        >>> step, state = lion_update(torch.tensor([8.0]), state, b1=0.9, b2=0.99)
        >>> step, state.mu
        (tensor([-1.]), tensor([-0.9100]))

    Source: Chen et al. 2023, algorithm 2.
    """
    del params, extra

    def leaf(g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        # 1. Update, in the shape of the leaf.
        grad, mean = upcast(g), upcast(m)
        direction = _sign((1.0 - b1) * grad + b1 * mean, mode, smooth_beta)
        # 2. Moment.
        mu = (1 - b2) * grad + b2 * mean
        # 3. Dtypes, and trees.
        return direction.to(torch.promote_types(g.dtype, m.dtype)), mu.to(m.dtype)

    steps, mu = map_unzip(2, leaf, updates, state.mu)
    return steps, ScaleByLionState(count=increment(state.count), mu=mu)


def _sign(x: Tensor, mode: str, smooth_beta: float) -> Tensor:
    """Applies the sign function ("hard"), or its smooth or clipped replacement."""
    if mode == "smooth":
        return torch.tanh(smooth_beta * x)
    return x.sign() if mode == "hard" else x.clamp(-1, 1)
