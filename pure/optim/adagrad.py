"""Adagrad: the gradient divided by the root of the sum of all its squares so far.

Shape letters: none; elementwise on each leaf.

Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", 2011.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import Scalar, ScalarOrSchedule, chain, map_unzip, upcast
from pure.optim.check import check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.scale import scale_by_learning_rate
from pure.types import GradientTransformation, Tree


class ScaleByRssState(NamedTuple):
    """The sum of squared gradients, a tree like the params."""

    sum_of_squares: Tree


def adagrad(
    learning_rate: ScalarOrSchedule, initial_accumulator_value: Scalar = 0.1, eps: Scalar = 1e-7
) -> GradientTransformation:
    """Builds Adagrad: each coordinate's steps shrink with the root of the sum of its squared gradients.

        s ← s + g²;   u = -learning_rate g / √(s + eps)

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        initial_accumulator_value: initial s, >= 0.
        eps: added inside the root, >= 0.

    Returns:
        GradientTransformation with state (ScaleByRssState, state of the learning rate).

    Raises:
        ValueError: for a negative argument.

    Example:
        s = 0.1 + 1.5² = 2.35 and 1.5 / √2.35 = 0.9785.

        >>> opt = adagrad(1.0)
        >>> opt.update(torch.tensor([1.5]), opt.init(torch.tensor([0.0])))[0]
        tensor([-0.9785])

    Source: Duchi et al. 2011, figure 1, with a diagonal matrix.
    """
    check_not_negative("adagrad", optional=True, learning_rate=learning_rate)
    return chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate))


def scale_by_rss(initial_accumulator_value: Scalar = 0.1, eps: Scalar = 1e-7) -> GradientTransformation:
    """Builds Adagrad's division by the root of the sum of squares, without the learning rate.

    Returns:
        GradientTransformation with state ScaleByRssState; updates are not negated: chain
        `scale_by_learning_rate`.

    Raises:
        ValueError: for a negative argument.
    """
    check_not_negative("scale_by_rss", initial_accumulator_value=initial_accumulator_value, eps=eps)
    return GradientTransformation(
        partial(rss_init, initial_accumulator_value=initial_accumulator_value),
        elementwise(partial(rss_update, eps=eps)),
    )


def rss_init(params: Tree, *, initial_accumulator_value: Scalar) -> ScaleByRssState:
    """Initialises the sum with `initial_accumulator_value`."""
    return ScaleByRssState(
        tree.map(lambda p: (torch.zeros_like(p) + initial_accumulator_value).to(p.dtype), params)
    )


def rss_update(
    updates: Tree, state: ScaleByRssState, params: Tree | None = None, *, eps: Scalar, **extra: Any
) -> tuple[Tree, ScaleByRssState]:
    """Adds the squares, and divides by the root of the sum; see `adagrad` for the formula.

    Args:
        updates: tree of gradients g.
        state: ScaleByRssState.
        params, extra: not used.
        eps: as in `adagrad`.

    Returns:
        (updates, state); updates are not negated.

    Edge cases: where the sum is 0 the update is 0.
    """
    del params, extra

    def leaf(g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        x = upcast(g)
        total = x.square() + upcast(s)
        positive = total > 0
        root = torch.where(positive, total + eps, 1.0).rsqrt()
        step = x * torch.where(positive, root, 0.0)
        return step.to(torch.promote_types(g.dtype, s.dtype)), total.to(s.dtype)

    steps, total = map_unzip(2, leaf, updates, state.sum_of_squares)
    return steps, ScaleByRssState(total)
