"""Stochastic gradient descent, with or without momentum.

Shape letters: none; elementwise on each leaf.

Robbins and Monro, "A Stochastic Approximation Method", 1951; Polyak, "Some methods of speeding up the
convergence of iteration methods", 1964 (momentum); Sutskever et al., "On the importance of
initialization and momentum in deep learning", 2013 (Nesterov's form).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import Scalar, ScalarOrSchedule, chain, identity, map_unzip, upcast
from pure.optim.check import check_dtype, check_fraction, check_not_negative
from pure.optim.leafwise import elementwise
from pure.optim.scale import scale_by_learning_rate
from pure.types import GradientTransformation, Tree


class TraceState(NamedTuple):
    """The velocity of momentum, a tree like the params."""

    trace: Tree


def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    accumulator_dtype: torch.dtype | None = None,
) -> GradientTransformation:
    """Builds gradient descent: u = -learning_rate g, or -learning_rate times the velocity.

    Args:
        learning_rate: >= 0; a number, a [] tensor or a schedule.
        momentum: in [0, 1), decay of the velocity; None: no velocity and no state.
        nesterov: use Nesterov's update.
        accumulator_dtype: storage of the velocity; None stores it like the params.

    Returns:
        GradientTransformation with state (TraceState or EmptyState, state of the learning rate).

    Raises:
        ValueError: for a negative learning_rate, or momentum outside [0, 1).

    Example:
        Two equal gradients: the second step is 1 + 0.9 times as long as the gradient.

        >>> opt = sgd(1.0, momentum=0.9)
        >>> g = torch.tensor([1.0])
        >>> _, state = opt.update(g, opt.init(g))
        >>> opt.update(g, state)[0]
        tensor([-1.9000])
    """
    check_not_negative("sgd", optional=True, learning_rate=learning_rate)
    check_dtype("sgd", accumulator_dtype=accumulator_dtype)
    momentum_or_identity = identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype)
    return chain(momentum_or_identity, scale_by_learning_rate(learning_rate))


def trace(
    decay: Scalar, nesterov: bool = False, accumulator_dtype: torch.dtype | None = None
) -> GradientTransformation:
    """Builds the velocity of heavy-ball momentum; see `trace_update`.

    Raises:
        ValueError: if decay is outside [0, 1).
    """
    check_fraction("trace", decay=decay)
    check_dtype("trace", accumulator_dtype=accumulator_dtype)
    return GradientTransformation(
        partial(trace_init, accumulator_dtype=accumulator_dtype),
        elementwise(partial(trace_update, decay=decay, nesterov=nesterov)),
    )


def trace_init(params: Tree, *, accumulator_dtype: torch.dtype | None = None) -> TraceState:
    """Initialises the velocity with zeros."""
    return TraceState(trace=tree.zeros_like(params, dtype=accumulator_dtype))


def trace_update(
    updates: Tree,
    state: TraceState,
    params: Tree | None = None,
    *,
    decay: Scalar,
    nesterov: bool,
    **extra: Any,
) -> tuple[Tree, TraceState]:
    """Adds the gradient to a decaying velocity: trace ← g + decay trace.

    Steps that agree in direction add up, steps that alternate cancel. The sum is not normalised: with equal
    gradients it tends to g / (1 - decay).

        update = trace,  or with nesterov  g + decay trace,  with the new trace

    Args:
        updates: tree of gradients g.
        state: TraceState.
        params, extra: not used.
        decay: in [0, 1); a number or a [] tensor.
        nesterov: use the second formula.

    Returns:
        (updates, state), updates in the wider dtype of g and trace, not negated; the state keeps its dtype.

    Steps:
        1. New velocity of each leaf, in at least float32 (`upcast`).
        2. Update of each leaf, by the first or the second formula, from the velocity before it is rounded.
        3. Cast: the update to the wider dtype, the velocity to that of the old one. Trees of both by
            `map_unzip(2, leaf, updates, state.trace)`, whose leaf(g, velocity) takes steps 1 to 3.

    Edge cases: decay 0 gives the gradient.

    Example:
        The velocity is 1 + 0.5 · 4 = 3, Nesterov's update 1 + 0.5 · 3.

        >>> state = TraceState(torch.tensor([4.0]))
        >>> trace_update(torch.tensor([1.0]), state, decay=0.5, nesterov=True)
        (tensor([2.5000]), TraceState(trace=tensor([3.])))

    Source: Polyak 1964, equation 9; Sutskever et al. 2013, section 2. Differs from them: the learning rate
    multiplies the sum, as in optax and torch, not each gradient.
    """
    del params, extra

    def leaf(g: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        # 1. Velocity, in the shape of the leaf.
        velocity = upcast(g) + decay * upcast(t)
        # 2. Update.
        step = upcast(g) + decay * velocity if nesterov else velocity
        # 3. Dtypes, and trees.
        return step.to(torch.promote_types(g.dtype, t.dtype)), velocity.to(t.dtype)

    steps, velocity = map_unzip(2, leaf, updates, state.trace)
    return steps, TraceState(trace=velocity)
