"""Hyperparameters in the optimizer's state, where a run can log, save, change and vmap them.

Shape letters: none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import increment, zero_count
from pure.optim.leafwise import mark_as_inner
from pure.types import GradientTransformation, Schedule, Tree


class WrappedScheduleState(NamedTuple):
    """The count at which a schedule is evaluated next."""

    count: Tensor  # type: ignore[assignment]  # [] int32


class InjectStatefulHyperparamsState(NamedTuple):
    """Hyperparameters by name, and the state of their optimizer."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    hyperparams: dict[str, Tensor]  # name -> [], the values of the last update
    hyperparams_states: dict[str, WrappedScheduleState]  # name -> count, for schedules
    inner_state: Tree


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: torch.dtype | None = None,
) -> Callable[..., GradientTransformation]:
    """Turns a builder into one that stores numeric arguments in the optimizer's state.

    A population can then have a learning rate per member, a log can show the schedule's value, and a run can
    change the rate without being rebuilt: state._replace(hyperparams={**state.hyperparams, "learning_rate":
    torch.tensor(1e-4)}).

    Args:
        inner_factory: a builder, such as `adamw`.
        static_args: names of arguments that are not stored; bools, None, dtypes and masks never are.
        hyperparam_dtype: dtype of the numbers; None is the widest of the params, at least float32.

    Returns:
        A builder with the same arguments: ints, floats and tensors become hyperparams, functions (except
        masks) are schedules of the count.

    Edge cases: numbers in the state are not checked: b1 = 1, for instance, is not refused.

    Raises:
        ValueError: if static_args has a name that is not an argument of the builder.

    Example:
        >>> from pure.optim.sgd import sgd
        >>> opt = inject_hyperparams(sgd)(learning_rate=0.5)
        >>> state = opt.init(torch.tensor(0.0))
        >>> state = state._replace(hyperparams={"learning_rate": torch.tensor(2.0)})
        >>> opt.update(torch.tensor(1.0), state, torch.tensor(0.0))[0]
        tensor(-2.)

    Source: optax.inject_hyperparams. Differs from it: a mask given as a function is not treated as a
    schedule, and numbers are never half precision (b2 = 0.999 is 1 in bfloat16).
    """
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    names = inspect.signature(inner_factory).parameters
    unknown = [x for x in static if x not in names]
    if unknown:
        raise ValueError(
            f"inject_hyperparams: static_args {', '.join(unknown)} are not arguments of the builder; "
            f"it has {', '.join(names)}"
        )
    return partial(
        build_injected, inner_factory=inner_factory, static_args=static, hyperparam_dtype=hyperparam_dtype
    )


def build_injected(
    *args: Any,
    inner_factory: Callable[..., GradientTransformation],
    static_args: tuple[str, ...],
    hyperparam_dtype: torch.dtype | None,
    **kwargs: Any,
) -> GradientTransformation:
    """Splits the builder's arguments into numbers, schedules and others, and binds them.

    Args:
        args, kwargs: those of the builder.
        inner_factory, static_args, hyperparam_dtype: as in `inject_hyperparams`.

    Returns:
        GradientTransformation with state InjectStatefulHyperparamsState.

    Steps:
        1. Bind all arguments by name, with defaults. (The builder is called once, so that it checks them.)
        2. Split them.
        3. Build.
    """
    # 1. Bind.
    bound = inspect.signature(inner_factory).bind(*args, **kwargs)
    bound.apply_defaults()
    inner = inner_factory(**bound.arguments)
    # 2. Split.
    numbers, schedules, rest = {}, {}, {}
    for name, value in bound.arguments.items():
        if name in static_args or name.endswith("mask") or isinstance(value, bool):
            rest[name] = value
        elif isinstance(value, int | float | Tensor):
            numbers[name] = value
        elif callable(value):
            schedules[name] = value
        else:
            rest[name] = value
    # 3. Build.
    settings: dict[str, Any] = {
        "factory": inner_factory,
        "rest": rest,
        "schedules": schedules,
        "dtype": hyperparam_dtype,
    }
    update = mark_as_inner(partial(inject_update, **settings), inner)
    return GradientTransformation(partial(inject_init, numbers=numbers, **settings), update)


def inject_init(
    params: Tree,
    *,
    factory: Callable[..., GradientTransformation],
    numbers: dict[str, float | Tensor],
    schedules: dict[str, Schedule],
    rest: dict[str, Any],
    dtype: torch.dtype | None,
) -> InjectStatefulHyperparamsState:
    """Stores the numbers, and the schedules' first values, in the state.

    Args:
        params: tree of parameters.
        factory: the builder.
        numbers, schedules, rest: the builder's arguments: numbers, schedules, and all others.
        dtype: as `hyperparam_dtype` in `inject_hyperparams`.

    Returns:
        InjectStatefulHyperparamsState.
    """
    count = zero_count(params)
    dtype = _dtype(params, dtype)
    hyperparams = {k: _number(v, dtype, count) for k, v in numbers.items()}
    hyperparams.update({k: _number(f(count), dtype, count) for k, f in schedules.items()})
    return InjectStatefulHyperparamsState(
        count=count,
        hyperparams=hyperparams,
        hyperparams_states={k: WrappedScheduleState(count=count.clone()) for k in schedules},
        inner_state=factory(**rest, **hyperparams).init(params),
    )


def inject_update(
    updates: Tree,
    state: InjectStatefulHyperparamsState,
    params: Tree | None = None,
    *,
    factory: Callable[..., GradientTransformation],
    schedules: dict[str, Schedule],
    rest: dict[str, Any],
    dtype: torch.dtype | None,
    **extra: Any,
) -> tuple[Tree, InjectStatefulHyperparamsState]:
    """Builds the optimizer from the hyperparameters in the state, and calls its update.

    Args:
        updates, params, extra: passed to the optimizer.
        state: InjectStatefulHyperparamsState.
        factory: the builder.
        schedules, rest: the builder's schedules, and its arguments that are neither number nor schedule.
        dtype: as `hyperparam_dtype` in `inject_hyperparams`.

    Returns:
        (updates, state); hyperparams are those of this update, counts are one higher.
    """
    hyperparams = dict(state.hyperparams)
    for name, schedule in schedules.items():
        old = state.hyperparams[name]  # has the dtype chosen at init, perhaps from more leaves than these
        hyperparams[name] = _number(schedule(state.hyperparams_states[name].count), old.dtype, old)
    updates, inner_state = factory(**rest, **hyperparams).update(updates, state.inner_state, params, **extra)
    counts = {k: WrappedScheduleState(count=increment(s.count)) for k, s in state.hyperparams_states.items()}
    return updates, InjectStatefulHyperparamsState(increment(state.count), hyperparams, counts, inner_state)


def _dtype(params: Tree, dtype: torch.dtype | None) -> torch.dtype:
    """Returns the given dtype, or the widest of float32 and the params' dtypes."""
    if dtype is not None:
        return dtype
    widest = torch.float32
    for x in tree.leaves(params):
        if x.is_floating_point():
            widest = torch.promote_types(widest, x.dtype)
    return widest


def _number(value: float | Tensor, dtype: torch.dtype, like: Tensor) -> Tensor:
    """Creates a [] tensor with its own storage: floats in `dtype`, ints in int32, tensors cloned."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, int):
        dtype = torch.int32
    return torch.tensor(value, dtype=dtype, device=like.device)
