"""Hyperparameters in the state: numbers that can be read, logged, saved, changed and vmapped while a run goes
on.

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
from pure.types import GradientTransformation, Schedule, Tree


class WrappedScheduleState(NamedTuple):
    """The number of values that a schedule has given."""

    count: Tensor  # type: ignore[assignment]  # [] int32


class InjectStatefulHyperparamsState(NamedTuple):
    """Hyperparameters by name, and the state of the optimizer they were put into."""

    count: Tensor  # type: ignore[assignment]  # [] int32  updates so far
    hyperparams: dict[str, Tensor]  # name -> [], the values of the last update
    hyperparams_states: dict[str, WrappedScheduleState]  # name -> count, for schedules
    inner_state: Tree


def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: torch.dtype | None = None,
) -> Callable[..., GradientTransformation]:
    """Turns a builder into one whose numeric arguments live in the optimizer's state.

    A population can then have a learning rate per member, a log can show the schedule's value, and a run can
    be given another rate without being built anew: state._replace(hyperparams={**state.hyperparams,
    "learning_rate": torch.tensor(1e-4)}).

    Args:
        inner_factory: a builder, such as `adamw`.
        static_args: names of arguments that stay as they are. Bools, None, dtypes and masks do so without
            being named.
        hyperparam_dtype: dtype of the numbers; None takes the widest of the params, at least float32.

    Returns:
        A builder with the same arguments: ints, floats and tensors become hyperparams, functions (but for
            masks) are
        schedules of the count.

    Edge cases: numbers in the state are not checked; values such as b1 = 1 are yours to avoid.

    Raises:
        ValueError: if a name of static_args is no argument of the builder.

    Example:
        >>> from pure.optim.sgd import sgd
        >>> opt = inject_hyperparams(sgd)(learning_rate=0.5)
        >>> state = opt.init(torch.tensor(0.0))
        >>> state = state._replace(hyperparams={"learning_rate": torch.tensor(2.0)})
        >>> opt.update(torch.tensor(1.0), state, torch.tensor(0.0))[0]
        tensor(-2.)

    Source: optax.inject_hyperparams. Differs from it: a mask given as a function is not taken for a schedule,
    and half-precision params do not narrow the numbers (b2 = 0.999 is 1 in bfloat16).
    """
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    names = inspect.signature(inner_factory).parameters
    unknown = [x for x in static if x not in names]
    if unknown:
        raise ValueError(
            f"inject_hyperparams: static_args {', '.join(unknown)} are no arguments of the builder; "
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
    """Sorts the builder's arguments into numbers, schedules and the rest, and binds them.

    Args:
        args, kwargs: those of the builder.
        inner_factory, static_args, hyperparam_dtype: as in `inject_hyperparams`.

    Returns:
        GradientTransformation with state InjectStatefulHyperparamsState.

    Steps:
        1. All arguments by name, defaults filled in. (The builder is called once, so that it checks them.)
        2. Sort.
        3. Bind.
    """
    # 1. By name.
    bound = inspect.signature(inner_factory).bind(*args, **kwargs)
    bound.apply_defaults()
    inner_factory(**bound.arguments)
    # 2. Sort.
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
    # 3. Bind.
    settings: dict[str, Any] = {
        "factory": inner_factory,
        "rest": rest,
        "schedules": schedules,
        "dtype": hyperparam_dtype,
    }
    return GradientTransformation(
        partial(inject_init, numbers=numbers, **settings), partial(inject_update, **settings)
    )


def inject_init(
    params: Tree,
    *,
    factory: Callable[..., GradientTransformation],
    numbers: dict[str, float | Tensor],
    schedules: dict[str, Schedule],
    rest: dict[str, Any],
    dtype: torch.dtype | None,
) -> InjectStatefulHyperparamsState:
    """Puts the numbers, and the schedules' first values, into the state.

    Args:
        params: tree of parameters.
        factory: the builder.
        numbers, schedules, rest: its arguments that become hyperparams, that are functions of the count, and
            others.
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
    """Builds the optimizer from the numbers in the state, and updates by it.

    Args:
        updates, params, extra: handed to the optimizer.
        state: InjectStatefulHyperparamsState.
        factory: the builder.
        schedules, rest: its arguments that are functions of the count, and those that are no numbers.
        dtype: as `hyperparam_dtype` in `inject_hyperparams`.

    Returns:
        (updates, state); hyperparams are those that were used, counts are one higher.
    """
    # The dtype was settled at init, perhaps on more leaves than there are here.
    hyperparams = dict(state.hyperparams)
    for name, schedule in schedules.items():
        old = state.hyperparams[name]
        hyperparams[name] = _number(schedule(state.hyperparams_states[name].count), old.dtype, old)
    updates, inner_state = factory(**rest, **hyperparams).update(updates, state.inner_state, params, **extra)
    counts = {k: WrappedScheduleState(count=increment(s.count)) for k, s in state.hyperparams_states.items()}
    return updates, InjectStatefulHyperparamsState(increment(state.count), hyperparams, counts, inner_state)


def _dtype(params: Tree, dtype: torch.dtype | None) -> torch.dtype:
    """The given dtype, or the widest of float32 and the params."""
    wide = dtype or torch.float32
    for x in tree.leaves(params) if dtype is None else []:
        wide = torch.promote_types(wide, x.dtype) if x.is_floating_point() else wide
    return wide


def _number(value: float | Tensor, dtype: torch.dtype, like: Tensor) -> Tensor:
    """A number -> [] of `dtype` in storage of its own, on the device of `like`; ints become int32, tensors
    keep their dtype."""
    if isinstance(value, Tensor):
        return value.clone()
    return torch.tensor(value, dtype=torch.int32 if isinstance(value, int) else dtype, device=like.device)
