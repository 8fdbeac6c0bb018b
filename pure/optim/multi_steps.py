"""Gradient accumulation over several calls of `update`, inside the optimizer's state.

A stage accumulates inside one step (`gradient_accumulation`), which needs no second copy of the gradients
between steps. `MultiSteps` is for a loop that calls `update` once a micro-batch, and for states that optax
wrote.

Shape letters: none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pure import tree
from pure.number import is_int
from pure.optim.base import increment, upcast, zero_count
from pure.optim.check import check_dtype
from pure.optim.extra import with_extra
from pure.optim.same_shapes import check_same_shapes
from pure.types import GradientTransformation, Tree

OF_ONE_STEP = ("grad_norm", "finite")
"""Names in `extra` that describe the gradients of one mini-step; `inner` gets the accumulated ones."""


@runtime_checkable
class ShouldSkipUpdateFunction(Protocol):
    """Decides if a mini-step is skipped: (updates, gradient_step, params) -> ([] bool, tree to be stored)."""

    def __call__(
        self, updates: Tree, gradient_step: Tensor, params: Tree | None, /
    ) -> tuple[Tensor, Tree]: ...


class MultiStepsState(NamedTuple):
    """Counters, the gradients accumulated so far, and the state of the inner transformation."""

    mini_step: Tensor  # [] int32  gradients accumulated since the last update
    gradient_step: Tensor  # [] int32  updates of the inner transformation
    inner_opt_state: Tree
    acc_grads: Tree  # like the params: mean (or sum) of the gradients since the last update
    skip_state: Tree = ()  # what should_skip_update_fn returned last


def MultiSteps(
    opt: GradientTransformation,
    every_k_schedule: int | Callable[[Tensor], Tensor | int],
    use_grad_mean: bool = True,
    should_skip_update_fn: ShouldSkipUpdateFunction | None = None,
    accumulator_dtype: torch.dtype | None = torch.float32,
) -> GradientTransformation:
    """Updates by `opt` at every k-th call, with the mean gradient of the last k; other updates are zero.

    Args:
        opt: the inner transformation; it counts its own updates, so schedules advance once in k calls.
        every_k_schedule: k >= 1, or a function from gradient_step [] int32 to k.
        use_grad_mean: False gives `opt` the sum.
        should_skip_update_fn: decides if a mini-step is left out (not counted, not accumulated), such as
            `skip_not_finite`; None leaves none out.
        accumulator_dtype: storage of the accumulated gradients; None stores them like the params.

    Returns:
        GradientTransformation with state MultiStepsState; it is not leafwise. `has_updated(state)` tells if
        the last call updated.

    Raises:
        ValueError: if k is neither an int >= 1 nor a function; at the update, if should_skip_update_fn
            returns no [] bool.

    Edge cases: `opt` gets gradients in the dtype of `updates`. `grad_norm` and `finite` in `extra` describe
    one mini-step, and are not passed to `opt`; `value` is that of the last one.

    Example:
        Two gradients, 1 and 3: nothing, then the mean times the learning rate.

        >>> from pure.optim.sgd import sgd
        >>> opt = MultiSteps(sgd(0.5), 2)
        >>> first, state = opt.update(torch.tensor(1.0), opt.init(torch.tensor(0.0)))
        >>> second, state = opt.update(torch.tensor(3.0), state)
        >>> first, second, has_updated(state)
        (tensor(0.), tensor(-1.), tensor(True))

    Source: optax.MultiSteps. Differs from it: the result is a transformation, and `has_updated` a function;
    gradients that are not finite do not stay in the accumulator after their update.
    """
    if not callable(every_k_schedule) and (not is_int(every_k_schedule) or every_k_schedule < 1):
        raise ValueError(
            "MultiSteps: every_k_schedule must be an int >= 1, or a function from the number of updates to "
            f"one, got {every_k_schedule!r}"
        )
    check_dtype("MultiSteps", accumulator_dtype=accumulator_dtype)
    inner = with_extra(opt)
    return GradientTransformation(
        partial(
            multi_steps_init,
            inner=inner,
            should_skip_update_fn=should_skip_update_fn,
            accumulator_dtype=accumulator_dtype,
        ),
        partial(
            multi_steps_update,
            inner=inner,
            every_k_schedule=every_k_schedule,
            use_grad_mean=use_grad_mean,
            should_skip_update_fn=should_skip_update_fn,
        ),
    )


def multi_steps_init(
    params: Tree,
    *,
    inner: GradientTransformation,
    should_skip_update_fn: ShouldSkipUpdateFunction | None,
    accumulator_dtype: torch.dtype | None,
) -> MultiStepsState:
    """Initialises counters and accumulated gradients with 0, and the state of `inner`."""
    gradient_step = zero_count(params)
    skip_state: Tree = ()
    if should_skip_update_fn is not None:
        _, skip_state = should_skip_update_fn(tree.zeros_like(params), gradient_step, params)
    return MultiStepsState(
        mini_step=zero_count(params),
        gradient_step=gradient_step,
        inner_opt_state=inner.init(params),
        acc_grads=tree.zeros_like(params, dtype=accumulator_dtype),
        skip_state=skip_state,
    )


def multi_steps_update(
    updates: Tree,
    state: MultiStepsState,
    params: Tree | None = None,
    *,
    inner: GradientTransformation,
    every_k_schedule: int | Callable[[Tensor], Tensor | int],
    use_grad_mean: bool,
    should_skip_update_fn: ShouldSkipUpdateFunction | None,
    **extra: Any,
) -> tuple[Tree, MultiStepsState]:
    """Accumulates a gradient; at the k-th, returns the update of `inner`, else zeros.

        acc ← acc + (g - acc) / (mini_step + 1),  or without use_grad_mean  acc + g

    Args:
        updates: tree of gradients g.
        state: MultiStepsState.
        params: passed to `inner`.
        inner: `opt` of `MultiSteps`.
        every_k_schedule, use_grad_mean, should_skip_update_fn: as in `MultiSteps`.
        extra: passed to `inner`, without grad_norm and finite.

    Returns:
        (updates, state).

    Raises:
        ValueError: if should_skip_update_fn does not return a [] bool.

    Steps:
        1. Decide if the gradient is skipped, and if it completes an update.
        2. Accumulate it.
        3. Update by `inner`, and select its result or zeros. (Both are computed: a compiled step has no
           branch.)
        4. Empty the accumulator after an update; count.
    """
    check_same_shapes(updates, state.acc_grads)
    # 1. Decide.
    k = every_k_schedule(state.gradient_step) if callable(every_k_schedule) else every_k_schedule
    skip, skip_state = _skip(should_skip_update_fn, updates, state, params)
    emit = (state.mini_step == k - 1) & ~skip

    # 2. Accumulate.
    def accumulate(g: Tensor, acc: Tensor) -> Tensor:
        x, old = upcast(g), upcast(acc)
        return old + (x - old) / (state.mini_step + 1) if use_grad_mean else old + x

    acc_grads = tree.map(accumulate, updates, state.acc_grads)
    # 3. Update.
    extra = {name: value for name, value in extra.items() if name not in OF_ONE_STEP}
    grads = tree.map(lambda acc, g: acc.to(g.dtype), acc_grads, updates)
    steps, inner_state = inner.update(grads, state.inner_opt_state, params, **extra)
    # 4. Empty and count.
    stored = tree.map(lambda acc, old: torch.where(emit, 0.0, acc).to(old.dtype), acc_grads, state.acc_grads)
    mini_step = (increment(state.mini_step) % k).to(torch.int32)
    return tree.map(lambda u: torch.where(emit, u, 0.0), steps), MultiStepsState(
        mini_step=torch.where(skip, state.mini_step, mini_step),
        gradient_step=torch.where(emit, increment(state.gradient_step), state.gradient_step),
        inner_opt_state=tree.where(emit, inner_state, state.inner_opt_state),
        acc_grads=tree.where(skip, state.acc_grads, stored),
        skip_state=skip_state,
    )


def has_updated(state: MultiStepsState) -> Tensor:
    """Checks that the last call of a `MultiSteps` update was one of its inner transformation: [] bool."""
    return (state.mini_step == 0) & (state.gradient_step > 0)


def skip_not_finite(updates: Tree, gradient_step: Tensor, params: Tree | None) -> tuple[Tensor, Tree]:
    """Decides to skip gradients with a NaN or infinity, for `MultiSteps`.

    Args:
        updates: tree of gradients.
        gradient_step, params: not used.

    Returns:
        ([] bool, {"should_skip": [] bool, "num_not_finite": [] int32, the number of such elements}).

    Example:
        >>> skip_not_finite({"a": torch.tensor([1.0, float("inf")])}, torch.tensor(0), None)[0]
        tensor(True)
    """
    del params
    counts = [(~g.isfinite()).sum() for g in tree.leaves(updates)]
    total = torch.stack(counts).sum() if counts else torch.zeros_like(gradient_step)
    skip = total > 0
    return skip, {"should_skip": skip.clone(), "num_not_finite": total.to(torch.int32)}


def skip_large_updates(
    updates: Tree, gradient_step: Tensor, params: Tree | None, max_squared_norm: float | Tensor
) -> tuple[Tensor, Tree]:
    """Decides to skip gradients of a large global norm; bind `max_squared_norm` by `functools.partial`.

    Args:
        updates: tree of gradients.
        gradient_step, params: not used.
        max_squared_norm: squared norms at or above it are skipped, NaN too.

    Returns:
        ([] bool, {"should_skip": [] bool, "norm_squared": [], of the widest dtype of the leaves}).

    Example:
        >>> skip_large_updates({"a": torch.tensor([3.0, 4.0])}, torch.tensor(0), None, 25.0)[0]
        tensor(True)
    """
    del params
    values = tree.leaves(updates)
    dtype = tree.shared_dtype(updates)
    squares = [upcast(g).square().sum().to(dtype) for g in values]
    total = torch.stack(squares).sum() if squares else torch.zeros_like(gradient_step, dtype=dtype)
    skip = ~(total < max_squared_norm)
    stored = values[0].dtype if values else dtype
    for g in values[1:]:
        stored = torch.promote_types(stored, g.dtype)
    return skip, {"should_skip": skip.clone(), "norm_squared": total.to(stored, copy=True)}


def _skip(
    should_skip: ShouldSkipUpdateFunction | None, updates: Tree, state: MultiStepsState, params: Tree | None
) -> tuple[Tensor, Tree]:
    """Calls should_skip_update_fn and checks its answer; without one, nothing is skipped."""
    if should_skip is None:
        return torch.zeros_like(state.mini_step, dtype=torch.bool), ()
    skip, skip_state = should_skip(updates, state.gradient_step, params)
    if not isinstance(skip, Tensor) or skip.dtype != torch.bool or skip.shape:
        raise ValueError(
            "MultiSteps: should_skip_update_fn must return a [] bool tensor and a tree, got "
            f"{skip.dtype if isinstance(skip, Tensor) else type(skip).__name__}"
            f"{list(skip.shape) if isinstance(skip, Tensor) else ''} first"
        )
    return skip, skip_state
