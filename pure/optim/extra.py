"""Adapter for optimizers whose update takes no `extra`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

from pure.optim.leafwise import mark_as_inner
from pure.types import GradientTransformation, Tree


def with_extra(transform: GradientTransformation) -> GradientTransformation:
    """Lets an optimizer whose update takes no `extra` be called with it.

    optax's base protocol is `update(updates, state, params)`; ours also passes `extra` (see base.py).

    Args:
        transform: any pair (init, update).

    Returns:
        The same, if its update takes `**kwargs`; else a pair whose update drops `extra`.

    Raises:
        TypeError: for an optimizer of optax, whose functions take JAX arrays; the message has the line to
            write. For anything else without the two functions, such as an optimizer of torch.

    Example:
        >>> import torch
        >>> keep = lambda updates, state, params=None: (updates, state)
        >>> plain = GradientTransformation(lambda params: (), keep)
        >>> with_extra(plain).update({"w": torch.tensor(1.0)}, (), value=torch.tensor(0.0))[0]
        {'w': tensor(1.)}
    """
    if type(transform).__module__.split(".")[0] == "optax":
        raise TypeError(
            "expected an optimizer of pure.optim, got one of optax; write from_optax(optax....), with "
            "`from pure.interop.jax import from_optax`"
        )
    if not all(callable(getattr(transform, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"expected an optimizer of pure.optim, a pair (init, update), got {type(transform).__name__}; "
            "write optim.adamw(1e-3) and the like, with `from pure import optim`: they hold no params"
        )
    if _takes_keywords(transform.update):
        return transform
    update = mark_as_inner(partial(_drop_extra, transform.update), transform)
    return GradientTransformation(transform.init, update)


def _takes_keywords(update: Callable) -> bool:
    """Reports if a function takes `**kwargs`.

    A plain function, alone or in partials, is asked by its code: torch 2.11 cannot compile
    `inspect.signature` of a partial, and under `stages.sweep` optimizers are built inside the compiled step.
    """
    function = update
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, FunctionType) and not hasattr(function, "__wrapped__"):
        return bool(function.__code__.co_flags & inspect.CO_VARKEYWORDS)
    kinds = {parameter.kind for parameter in inspect.signature(update).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def _drop_extra(
    update: Callable, updates: Tree, state: Tree, params: Tree | None = None, **extra: Any
) -> Any:
    """Calls `update` without `extra`."""
    return update(updates, state, params)
