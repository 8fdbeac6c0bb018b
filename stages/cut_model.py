"""Steps of models whose leaves are cut over processes (`pure.nn.tensor_parallel`): norms, and refusals.

Shape letters: L leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.nn.tensor_parallel import tensor_layout
from pure.parallel.collect import exchange, raise_first
from pure.parallel.cut_models import CutModel
from pure.parallel.operators import sum_over_group
from pure.transform.gradient import Gradient, is_accumulation
from pure.types import Tree


def norms_of_whole_leaves(per_leaf: Tensor, grads: Tree, models: Sequence[CutModel]) -> Tensor:
    """Return the norms of whole leaves from those of this process's parts.

        norm = √(Σ_r norm_r²) of a leaf that is cut; a leaf that all processes have counts once

    Args:
        per_leaf: [L] float, of this process's parts, in the order of the tree's leaves.
        grads: tree of L leaves, with the parameters of the models.
        models: the cut models that the gradient was computed with; none leaves the norms unchanged.

    Returns:
        [L], equal on all processes; not finite where a part is not.

    Example:
        >>> norms_of_whole_leaves(torch.ones(1), {"w": torch.ones(1)}, [])
        tensor([1.])
    """
    for model in (model for model in models if model.config is not None):
        layout = tensor_layout(grads, model.config)
        is_cut = torch.tensor(
            [layout[path] is not None for path in tree.paths(grads)], device=per_leaf.device
        )
        squares = sum_over_group(torch.where(is_cut, per_leaf, 0.0).square(), model.group)
        per_leaf = torch.where(is_cut, squares.sqrt(), per_leaf)
    return per_leaf


def check_cut_models(models: Sequence[CutModel], elementwise: bool, gradient: Gradient) -> None:
    """Refuse an optimizer or a gradient that needs whole leaves.

    Args:
        models: those that the gradient was computed with; one whose rows are cut has whole gradients.
        elementwise: if the stage's optimizer is (`pure.optim.leafwise.is_elementwise`).
        gradient: of the stage.

    Raises:
        ValueError: for one.
    """
    if all(model.config is None for model in models):
        return
    if not elementwise:
        raise ValueError(
            "tensor_parallel: this optimizer reads the shape or the norm of whole leaves (as muon, adafactor "
            "or a clip after another link do), and each process has a part; use an elementwise one, such as "
            "chain(clip_by_global_norm(1.0), adamw(...)), or stages.sharded in the place of tensor_parallel"
        )
    if not is_accumulation(gradient):
        raise ValueError(
            "tensor_parallel: this gradient= takes norms of whole gradients, and each process has a part; "
            "use accumulation=, or stages.data_parallel in the place of tensor_parallel"
        )


def score_once(score: Callable[[Any], Tensor], models: Sequence[CutModel], rollouts: Any) -> Tensor:
    """Compute rewards on the first process of each group, and give them to all.

    Processes that compute a model together have the same completions. Each of these is scored once, and a
    reward that is not a pure function (of a judge, under a time limit) is the same for all.

    Args:
        score: Rollouts -> rewards [B, K].
        models: those that sampled the completions; none: this process scores.
        rollouts: the same on all processes.

    Returns:
        [B, K] float.

    Raises:
        Exception: of `score`, on all processes.
    """
    groups = [model.group for model in models if model.group.size > 1]
    rewards: Tensor | None = None
    error: Exception | None = None
    if all(group.rank == 0 for group in groups):
        try:
            rewards = score(rollouts)
        except Exception as raised:
            error = raised
    for group in groups:  # an error goes on to the next group, whose processes wait too
        try:
            raise_first(error, group)
        except Exception as raised:
            error = raised
        rewards = exchange(rewards, group)[0]
    if error is not None:
        raise error
    assert rewards is not None
    return rewards.to(rollouts.tokens.device)
