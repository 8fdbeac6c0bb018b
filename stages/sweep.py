"""Sweep: the runs of one stage under several hyperparameters, trained at once as one run.

The hyperparameters are tensors with an axis over the members, and the stage is built inside the vmap, so that
any number that a stage or optimizer is built from can differ: learning rate, weight decay, beta, temperature.

Shape letters: P members, S seeds of each value.

Jaderberg et al., "Population Based Training of Neural Networks", 2017, whose selection is in `selection.py`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor

from pure import random, tree
from pure.plural import count_noun
from pure.types import Tree
from stages.population import check_leading_axis, map_members, refuse_grouped, sample_members
from stages.stage import Stage
from stages.state import TrainState

Make = Callable[..., Stage]
"""Builder of a member's stage from its hyperparameters: (name=value []) -> Stage."""


def sweep(
    make: Make,
    values: Mapping[str, Tensor | Sequence[float]],
    *,
    seeds: Tensor | Sequence[int] | None = None,
    shared_batch: bool = True,
) -> Stage:
    """Build a stage of P stacked states, each trained under its own hyperparameters, by one vmapped step.

        member i:  make(name=values[name][i], ...),  started from fold_in(key, seeds[i])

    Args:
        make: (name=value, ...) -> Stage, such as `lambda beta: dpo(model, optim.adam(1e-5), reference=params,
            beta=beta)`, whose arguments have the names of `values`. It receives tensors [], and must not read
            them (no `if beta > 0`, no `float(beta)`).
        values: name -> P numbers, a tensor [P, ...] or a list; floats of a list become float32.
            `grid` makes all combinations.
        seeds: P integers, >= 0, folded into the key. Members of one seed have the same initial params,
            dropout and samples, so that they differ by their values only. None: all have the key itself. With
            `values = grid(beta=[0.1, 0.5], seed=[0, 1])` give `seeds=values.pop("seed")`.
        shared_batch: all members see the same batch; False: every leaf of the batch has a leading axis [P,
            ...], such as batches of P pipes in their own orders, stacked by `pure.tree.stack`.

    Returns:
        A Stage: `init(key)` draws the initial params, `init(key, params)` starts all members from the same
        params; `step` takes the stacked state; `loss` has a leading axis too. `pure.tree.unstack(state)`
        gives the members' own states, which `make(...)` of their values continues alone. Compile it with
        `jit(step, donate=True)`: the regions of `jit(step, regions=True)` do not exist under vmap. The
        members of an online stage sample and are scored one after the other.

    Edge cases: a member whose loss diverges does not affect the others. `values` may be empty with seeds.

    Raises:
        TypeError: for values that are not numbers, or that `make` has no arguments for.
        ValueError: for no values, different numbers of values, a seed below 0, a value that `make` refuses,
            a `make` that reads its tensors, or one whose stages several processes compute; in `init`, for
            members whose states differ in structure; in a step, for a batch without a leading axis [P] that
            is not shared.

    Example:
        >>> from pure import optim
        >>> from stages.stage import stage
        >>> def square(params, batch, key):
        ...     return params.square().sum(), torch.tensor(1.0), {}
        >>> rates = sweep(lambda rate: stage(square, optim.sgd(rate)), {"rate": [0.25, 0.5]})
        >>> rates.step(rates.init(random.key(0), torch.tensor(4.0)), {"x": torch.ones(1)}).params
        tensor([2., 0.])

    Source: Jaderberg et al. 2017, algorithm 1, the training between two selections.
    """
    given = _to_tensors(values)
    keys_from = None if seeds is None else _to_tensors({"seeds": seeds})["seeds"]
    members = _count_members(given, keys_from)
    _check_make(make, given, members)
    first = make(**_member(given, 0))
    refuse_grouped("sweep", first)
    step_fn = step if first.parts is None or first.parts.score is None else online_step
    loss_fn = partial(loss, make=make, values=given, shared_batch=shared_batch)
    return Stage(
        init=partial(init, make=make, values=given, seeds=keys_from),
        step=partial(step_fn, make=make, values=given, members=members, shared_batch=shared_batch),
        loss=None if first.loss is None else loss_fn,
    )


def grid(**values: Tensor | Sequence[float]) -> dict[str, Tensor]:
    """List all combinations of hyperparameters, the last one varying fastest.

    Args:
        values: name=numbers.

    Returns:
        {name: [P]}, P the product of the lengths, for `sweep`. A metric [P] of the members is reshaped to a
        table by `.view(len(first), len(second), ...)`.

    Example:
        >>> grid(beta=[0.1, 0.5], seed=[0, 1])
        {'beta': tensor([0.1000, 0.1000, 0.5000, 0.5000]), 'seed': tensor([0, 1, 0, 1])}
    """
    rows = _to_tensors(values)
    combinations = list(itertools.product(*(range(len(x)) for x in rows.values())))
    return {
        name: x[torch.tensor([row[i] for row in combinations])] for i, (name, x) in enumerate(rows.items())
    }


def init(
    key: Tensor,
    params: Tree | None = None,
    *,
    make: Make,
    values: Mapping[str, Tensor],
    seeds: Tensor | None,
) -> TrainState:
    """Stack the members' initial states, each equal to that of its stage alone.

    Args:
        key: [2] uint32.
        params: initial params of all members; None draws them from each member's key.
        make, values, seeds: bound by `sweep`.

    Raises:
        ValueError: if the members' states differ in structure.
    """
    members = [_member(values, i) for i in range(_count_members(values, seeds))]
    keys = [key] * len(members)
    if seeds is not None:
        keys = [random.fold_in(key, seed) for seed in seeds.to(key.device)]
    states = [make(**value).init(k, params) for value, k in zip(members, keys, strict=True)]
    for i, state in enumerate(states):
        _check_structure(state, states[0], i)
    return tree.stack(states)


def step(
    state: TrainState,
    batch: Tree,
    *,
    make: Make,
    values: Mapping[str, Tensor],
    members: int,
    shared_batch: bool,
) -> TrainState:
    """Take one step of every member; equal to a loop over the stages of their values (1e-5 in float32).

    Args:
        state: stacked, [P, ...].
        batch: as any step takes it, with a leading axis [P, ...] unless it is shared.
        make, values, members, shared_batch: bound by `sweep`.

    Raises:
        ValueError: for a state of another number of members.
    """
    _check_members(state, members)

    def member_step(value: dict[str, Tensor], member: TrainState, batch: Tree) -> TrainState:
        return make(**value).step(member, batch)

    check_leading_axis("sweep", batch, members, shared_batch)
    inputs = (_on_device(values, state), state, batch)
    return map_members(member_step, *inputs, shared=(2,) if shared_batch else ())


def online_step(
    state: TrainState,
    batch: Tree,
    *,
    make: Make,
    values: Mapping[str, Tensor],
    members: int,
    shared_batch: bool,
) -> TrainState:
    """Sample and score member by member, then update all at once.

    Args:
        state: stacked, [P, ...].
        batch: prompts, with a leading axis [P, ...] unless they are shared.
        make, values, members, shared_batch: bound by `sweep`.

    Raises:
        ValueError: for a state of another number of members.
    """
    _check_members(state, members)
    check_leading_axis("sweep", batch, members, shared_batch)
    on_device = _on_device(values, state)
    parts = [make(**_member(on_device, i)).parts for i in range(members)]
    rounds = sample_members(state, batch, parts, shared_batch=shared_batch)

    def update(value: dict[str, Tensor], member: TrainState, round_: tuple) -> TrainState:
        parts = make(**value).parts
        assert parts is not None, "checked by sweep"
        return parts.update(member, *round_)

    return map_members(update, on_device, state, rounds)


def loss(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    make: Make,
    values: Mapping[str, Tensor],
    shared_batch: bool,
) -> tuple:
    """Compute the loss of every member, under its own values.

    Args:
        params: stacked, [P, ...].
        batch: as a step takes it.
        key: [P, 2], the members' keys, or None for validation.
        make, values, shared_batch: bound by `sweep`.

    Returns:
        (sum [P], count [P], metrics), as of a member's loss, with a leading axis.
    """

    def member_loss(value: dict[str, Tensor], params: Tree, batch: Tree, key: Tensor | None) -> tuple:
        made = make(**value)
        assert made.loss is not None, "checked by sweep"
        return made.loss(params, batch, key)

    first = tree.leaves(params)[0]
    check_leading_axis("sweep", batch, len(first), shared_batch)
    device = first.device
    on_device = {name: x.to(device) for name, x in values.items()}
    return map_members(member_loss, on_device, params, batch, key, shared=(2,) if shared_batch else ())


def _to_tensors(values: Mapping[str, Tensor | Sequence[float]]) -> dict[str, Tensor]:
    """Convert lists of numbers to tensors [P]; refuse other things."""
    tensors: dict[str, Tensor] = {}
    for name, x in values.items():
        if not isinstance(x, Tensor):
            is_list = isinstance(x, Sequence) and not isinstance(x, str)
            kinds = {type(v) for v in x} if is_list else {str}
            if not kinds <= {int, float}:
                raise TypeError(
                    f"sweep: expected {name} to be a tensor [P] or a list of numbers, got {x!r}; only "
                    "numbers can be vmapped: build one stage for each choice of something else"
                )
            x = torch.tensor(list(x), dtype=torch.float32 if float in kinds else torch.int64)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"sweep: expected {name} [P], one value for each member, got {list(x.shape)}")
        tensors[name] = x
    return tensors


def _count_members(values: Mapping[str, Tensor], seeds: Tensor | None) -> int:
    """P, the common length of the values and the seeds; seeds are integers of at least 0."""
    lengths = {name: len(x) for name, x in values.items()} | ({} if seeds is None else {"seeds": len(seeds)})
    if len({*lengths.values()}) != 1:
        raise ValueError(
            f"sweep: expected values of one length, one for each member, got {lengths or 'none'}; "
            "grid(...) makes all combinations"
        )
    if seeds is not None and (seeds.is_floating_point() or (seeds < 0).any()):
        raise ValueError(f"sweep: expected seeds that are integers of at least 0, got {seeds}")
    return next(iter(lengths.values()))


def _check_make(make: Make, values: Mapping[str, Tensor], members: int) -> None:
    """Build every member from plain numbers, which are range-checked, and all of them under vmap."""
    try:
        inspect.signature(make).bind(**dict.fromkeys(values))
    except TypeError as error:
        raise TypeError(
            f"sweep: make does not take the values {', '.join(values) or '(none)'} as arguments: {error}; "
            'seeds of a grid are given apart, seeds=values.pop("seed")'
        ) from error
    for i in range(members):
        numbers = {name: _to_number(x) for name, x in _member(values, i).items()}
        with suppress(TypeError, AttributeError):  # of a `make` that needs tensors, as in value.exp()
            try:
                make(**numbers)
            except ValueError as error:
                raise ValueError(
                    f"sweep: make refused the values of member {i}, {numbers}: {error}"
                ) from error

    def build(value: dict[str, Tensor]) -> Tensor:
        make(**value)
        return torch.zeros(())

    try:
        if values:
            map_members(build, dict(values))
    except RuntimeError as error:
        if "vmap: It looks like" not in str(error):
            raise
        raise ValueError(
            f"sweep: make reads the value of one of {', '.join(values)} (by `if`, float() or .item()), "
            "which differs between members; write torch.where, or build one stage for each choice"
        ) from error


def _to_number(x: Tensor) -> float | Tensor:
    """A tensor [] as a plain number."""
    if x.ndim:
        return x
    return float(x) if x.is_floating_point() else int(x)


def _check_structure(state: TrainState, first: TrainState, index: int) -> None:
    """Check that a member's state has the leaves of member 0's."""
    shapes = [
        dict(zip(tree.paths(s), (x.shape for x in tree.leaves(s)), strict=True)) for s in (first, state)
    ]
    names = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
    if names:
        sizes = [list(shape[names[0]]) if names[0] in shape else "none" for shape in shapes]
        raise ValueError(
            f"sweep: expected members of one structure, but {names[0]} is {sizes[0]} in member 0 and "
            f"{sizes[1]} in member {index}; build one stage for each structure"
        )


def _check_members(state: TrainState, members: int) -> None:
    """Check that the state is stacked and has P members."""
    if state.key.ndim != 2 or len(state.key) != members:
        raise ValueError(
            f"sweep: expected the stacked state of {count_noun(members, 'member')}, from `init` of this "
            f"sweep, got one with a key of shape {list(state.key.shape)}"
        )


def _member(values: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The values of one member."""
    return {name: x[index] for name, x in values.items()}


def _on_device(values: Mapping[str, Tensor], state: TrainState) -> dict[str, Tensor]:
    """The values on the state's device."""
    return {name: x.to(state.key.device) for name, x in values.items()}
