"""Branch: one run continued in two ways that differ in one thing, compared after each step.

Shape letters: S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.types import Tree
from stages.stage import Stage
from stages.state import TrainState


class Branch(NamedTuple):
    """Two runs from one state, step by step.

    Fields:
        states: the last state of the original run, and of the changed one.
        distances: [S] norm of the difference of their params after each step.
        lengths: [S] norm of the original's way from the common state.
        metrics: name -> [S, 2], of the metrics that both have.
        first: [] int64, the first step, from 0, after which the params differ in any bit; -1 if none.
    """

    states: tuple[TrainState, TrainState]
    distances: Tensor
    lengths: Tensor
    metrics: dict[str, Tensor]
    first: Tensor


def branch(
    original: Stage,
    changed: Stage,
    state: TrainState,
    batches: Sequence[Tree],
    *,
    changed_state: TrainState | None = None,
    changed_batches: Sequence[Tree] | None = None,
) -> Branch:
    """Continue one run in two ways, and compare them after each step.

    A run is a stage, a state and batches: change one of the three.

    Args:
        original: the stage as it was.
        changed: the stage with one thing changed (beta, optimizer, loss), or `original` again.
        state: at step s, by folding or from a checkpoint (`stages.checkpoint.checkpoint.load`).
        batches: of the S steps that follow, such as `pipe[s : s + S]`.
        changed_state: where the changed run starts, such as `state._replace(key=...)`; None: the same.
        changed_batches: its batches; None: the same.

    Returns:
        Branch.

    Raises:
        ValueError: for no batches, or another number of changed ones.

    Example:
        >>> from pure import optim, random
        >>> from stages.stage import stage
        >>> def square(params, batch, key):
        ...     return params.square().sum(), torch.tensor(1.0), {}
        >>> slow, fast = (stage(square, optim.sgd(rate)) for rate in (0.125, 0.25))
        >>> state = slow.init(random.key(0), torch.tensor(1.0))
        >>> found = branch(slow, fast, state, [{"x": torch.ones(1)}] * 2)
        >>> found.distances, found.first
        (tensor([0.2500, 0.3125]), tensor(0))
    """
    others = batches if changed_batches is None else changed_batches
    if len(batches) == 0 or len(others) != len(batches):
        raise ValueError(
            f"branch: expected batches of the same S >= 1 steps, got {len(batches)} and {len(others)}"
        )
    one, two = state, state if changed_state is None else changed_state
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    metrics: list[tuple[TrainState, TrainState]] = []
    for i in range(len(batches)):
        one, two = original.step(one, batches[i]), changed.step(two, others[i])
        rows.append(
            (_distance(one.params, two.params), _distance(one.params, state.params), _differ(one, two))
        )
        metrics.append((one, two))
    distances, lengths, differ = (torch.stack(column) for column in zip(*rows, strict=True))
    first = torch.where(differ.any(), differ.long().argmax(), -1)
    names = one.metrics.keys() & two.metrics.keys()
    table = {
        name: torch.stack([torch.stack([a.metrics[name], b.metrics[name]]) for a, b in metrics])
        for name in sorted(names)
    }
    return Branch((one, two), distances, lengths, table, first)


def _distance(a: Tree, b: Tree) -> Tensor:
    """Norm of the difference of two trees of params."""
    return tree.norm(tree.map(lambda x, y: x - y, a, b))


def _differ(a: TrainState, b: TrainState) -> Tensor:
    """True if any number of the params differs."""
    pairs = zip(tree.leaves(a.params), tree.leaves(b.params), strict=True)
    return torch.stack([(x != y).any() for x, y in pairs]).any()
