"""Population: several runs of one stage, trained at once as one run with a leading axis.

Shape letters: P members of the population.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pure import random, tree
from pure.parallel.group import is_grouped
from pure.plural import count_noun
from pure.transform.modes import has_values
from pure.types import Tree
from stages.online import Online, completion_weights, generate_and_score
from stages.stage import Stage
from stages.state import TrainState


def population(stage: Stage, members: int, *, shared_batch: bool = True) -> Stage:
    """Build a stage of `members` stacked states, each with its own key, trained by one vmapped step.

    Eight small models cost little more than one where the cores would otherwise be idle, and the spread over
    seeds shows whether a difference is more than noise.

    Args:
        stage: any stage. The members of an online stage sample and are scored one after the other, as the
            host drives the sampler; their updates are vmapped.
        members: P, >= 1.
        shared_batch: all members see the same batch; False: every leaf of the batch has a leading axis [P,
            ...].

    Returns:
        A Stage: `init(key)` splits the key, `init(key, params)` takes params with a leading axis [P, ...];
        `step` takes the stacked state. `pure.tree.unstack(state)` gives the members' own states. Compile it
        with `jit(step, donate=True)`: the regions of `jit(step, regions=True)` do not exist under vmap. Its
        `loss` has a leading axis too; for gradients of rows, vmap `per_sample_grad` of the stage's own loss.

    Raises:
        ValueError: if members < 1, or for a stage that several processes compute; in `init`, if members that
            see the same batch all start with equal params.

    Source: Jaderberg et al., "Population Based Training", 2017, without the selection.
    """
    if members < 1:
        raise ValueError(f"population: expected at least 1 member, got {members}")
    refuse_grouped("population", stage)
    samples = stage.parts is not None and stage.parts.score is not None
    return Stage(
        init=partial(init, stage=stage, members=members, alike=samples or not shared_batch),
        step=partial(online_step if samples else step, stage=stage, shared_batch=shared_batch),
        loss=None if stage.loss is None else partial(loss, stage=stage, shared_batch=shared_batch),
    )


def init(
    key: Tensor, params: Tree | None = None, *, stage: Stage, members: int, alike: bool = False
) -> TrainState:
    """Stack the initial states of the keys `split(key, members)`, each equal to that of the stage alone.

    Args:
        key: [2] uint32.
        params: with a leading axis [P, ...]; None initialises them.
        stage, members: bound by `population`.
        alike: members that start with equal params still differ, in their batches or samples.

    Returns:
        TrainState, stacked.

    Raises:
        ValueError: if the leading axis of the params is not `members`; if none are given, and the stage's
            own `init` gives all members equal ones, as that of a torch module does, unless `alike`.
    """
    keys = random.split(key, members)
    member_params = [None] * members if params is None else tree.unstack(params)
    if len(member_params) != members:
        raise ValueError(
            f"population: expected params with a leading axis of {members}, one per member, got "
            f"{len(member_params)}"
        )
    state = tree.stack([stage.init(k, p) for k, p in zip(keys.unbind(0), member_params, strict=True)])
    if params is None and members > 1 and not alike:
        _check_distinct(state.params)
    return state


def step(state: TrainState, batch: Tree, *, stage: Stage, shared_batch: bool) -> TrainState:
    """Take one step of every member; equal to a loop over them (1e-5 in float32).

    Raises:
        ValueError: for a batch without a leading axis over the members that is not shared.
    """
    check_leading_axis("population", batch, len(state.step), shared_batch)
    return map_members(stage.step, state, batch, shared=(1,) if shared_batch else ())


def online_step(state: TrainState, batch: Tree, *, stage: Stage, shared_batch: bool) -> TrainState:
    """Sample and score member by member, then update all at once; equal to a loop over the members.

    Args:
        state: stacked, [P, ...].
        batch: prompts, with a leading axis [P, ...] unless they are shared.
        stage, shared_batch: bound by `population`.
    """
    assert stage.parts is not None, "checked by population"
    parts = [stage.parts] * len(state.step)
    rounds = sample_members(state, batch, parts, shared_batch=shared_batch)
    update = stage.parts.update
    return map_members(lambda member, round_: update(member, *round_), state, rounds)


def loss(params: Tree, batch: Tree, key: Tensor | None, *, stage: Stage, shared_batch: bool) -> tuple:
    """Compute the loss of every member.

    Args:
        params: stacked, [P, ...].
        batch: as a step takes it.
        key: [P, 2], the members' keys, or None for validation.
        stage, shared_batch: bound by `population`.

    Returns:
        (sum [P], count [P], metrics), as of the stage's loss, with a leading axis.
    """
    assert stage.loss is not None, "checked by population"
    return map_members(stage.loss, params, batch, key, shared=(1,) if shared_batch else ())


def sample_members(
    state: TrainState, batch: Tree, parts: Sequence[Online | None], *, shared_batch: bool
) -> tuple:
    """Sample and score for one member after the other, as the host drives the sampler.

    Args:
        state: stacked, [P, ...].
        batch: prompts, with a leading axis [P, ...] unless they are shared.
        parts: of each member's stage.
        shared_batch: see `population`.

    Returns:
        (rollouts, rewards), and the completions' weights if the batch has any, each with a leading axis [P,
        ...]: the arguments of an update.
    """
    batches = [batch] * len(parts) if shared_batch else tree.unstack(batch)
    rounds = []
    for member, prompts, own in zip(tree.unstack(state), batches, parts, strict=True):
        rollouts, rewards = generate_and_score(member, prompts, parts=own)
        rounds.append((rollouts, rewards, *completion_weights(prompts, rollouts)))
    return tree.stack(rounds)


def check_leading_axis(caller: str, batch: Tree, members: int, shared_batch: bool) -> None:
    """Check that a batch which is not shared has a leading axis over the members.

    Args:
        caller: the caller's name in an error.
        batch: tree of tensors.
        members: P.
        shared_batch: members see the same batch, which is then not checked.

    Raises:
        ValueError: naming a leaf without the axis.

    Example:
        >>> check_leading_axis("sweep", {"x": torch.zeros(3, 8)}, 3, False)
    """
    if shared_batch:
        return
    for path, x in zip(tree.paths(batch), tree.leaves(batch), strict=True):
        if x.ndim < 1 or len(x) != members:
            raise ValueError(
                f"{caller}: with shared_batch=False each leaf of a batch is [P, ...] with P = "
                f"{count_noun(members, 'member')}, got {path} {list(x.shape)}; write tree.stack([batch of "
                f"each member]), or build the {caller} with shared_batch=True"
            )


def refuse_grouped(caller: str, stage: Stage) -> None:
    """Refuse a stage that several processes compute: their collectives cannot be vmapped or differentiated.

    Args:
        caller: the caller's name in an error.
        stage: any stage.

    Raises:
        ValueError: for one.
    """
    if is_grouped(stage.init):
        raise ValueError(
            f"{caller}: this stage is computed by several processes together, and a step of theirs cannot be "
            "vmapped or differentiated; give the plain stage, on each process alone"
        )


def map_members(function: Callable[..., Tree], *trees: Tree, shared: tuple[int, ...] = ()) -> Tree:
    """Apply a function of trees to each member at once: `vmap` on lists of leaves, as torch's pytrees differ.

    Args:
        function: of one member's trees, returns a tree.
        trees: each with a leading axis [P, ...] on every leaf.
        shared: indices of the trees that all members share, and that have no such axis.

    Returns:
        A tree with a leading axis [P, ...].

    Example:
        >>> map_members(lambda x, y: {"sum": x + y}, torch.tensor([1, 2]), torch.tensor(10), shared=(1,))
        {'sum': tensor([11, 12])}
    """
    flat = [tree.flatten(x) for x in trees]
    specs: list = []  # the structure of the result, known only once the function has run

    def member(*leaves: list[Tensor]) -> list[Tensor]:
        result = function(*(tree.unflatten(spec, x) for (_, spec), x in zip(flat, leaves, strict=True)))
        values, spec = tree.flatten(result)
        specs.append(spec)
        return values

    in_dims = tuple(None if i in shared else 0 for i in range(len(trees)))
    values = torch.func.vmap(member, in_dims=in_dims)(*(values for values, _ in flat))
    return tree.unflatten(specs[-1], values)


def _check_distinct(params: Tree) -> None:
    """Refuses members that all start with the params of the first, unless they are under a transform."""
    if has_values(params) and all(torch.equal(x, x[:1].expand_as(x)) for x in tree.leaves(params)):
        raise ValueError(
            "population: all members start with equal params: the stage's init does not use its key (of a "
            "module, give from_module a `build`); to start all from the same params, give them: "
            "init(key, tree.stack([params] * members))"
        )
