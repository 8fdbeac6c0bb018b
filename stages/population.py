"""Population: several runs of one stage, trained at once as one run with a leading axis.

Shape letters: P members of the population.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pure import random, tree
from pure.types import Tree
from stages.stage import Stage
from stages.state import TrainState


def population(stage: Stage, members: int, *, shared_batch: bool = True) -> Stage:
    """Build a stage of `members` stacked states, each with its own key, trained by one vmapped step.

    Eight small models cost little more than one where the cores would otherwise be idle, and the spread over
    seeds shows whether a difference is more than noise.

    Args:
        stage: any stage.
        members: P, >= 1.
        shared_batch: all members see the same batch; False: every leaf of the batch has a leading axis [P,
            ...].

    Returns:
        A Stage: `init(key)` splits the key, `init(key, params)` takes params with a leading axis [P, ...];
        `step` takes the stacked state. `pure.tree.unstack(state)` gives the members' own states. Compile it
        with `jit(step, donate=True)`: the regions of `jit(step, regions=True)` do not exist under vmap.

    Raises:
        ValueError: if members < 1.

    Source: Jaderberg et al., "Population Based Training", 2017, without the selection.
    """
    if members < 1:
        raise ValueError(f"population: expected at least 1 member, got {members}")
    return Stage(
        init=partial(init, stage=stage, members=members),
        step=partial(step, stage=stage, shared_batch=shared_batch),
    )


def init(key: Tensor, params: Tree | None = None, *, stage: Stage, members: int) -> TrainState:
    """Stack the initial states of the keys `split(key, members)`, each equal to that of the stage alone.

    Raises:
        ValueError: if the leading axis of the params is not `members`.
    """
    keys = random.split(key, members)
    member_params = [None] * members if params is None else tree.unstack(params)
    if len(member_params) != members:
        raise ValueError(
            f"population: expected params with a leading axis of {members}, one per member, got "
            f"{len(member_params)}"
        )
    return tree.stack([stage.init(k, p) for k, p in zip(keys.unbind(0), member_params, strict=True)])


def step(state: TrainState, batch: Tree, *, stage: Stage, shared_batch: bool) -> TrainState:
    """Take one step of every member; equal to a loop over them (1e-5 in float32)."""
    values, spec = tree.flatten(state)

    def member(values: list[Tensor], batch: Tree) -> list[Tensor]:
        return tree.leaves(stage.step(tree.unflatten(spec, values), batch))

    return tree.unflatten(
        spec, torch.func.vmap(member, in_dims=(0, None if shared_batch else 0))(values, batch)
    )
