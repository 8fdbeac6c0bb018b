"""Optimizers that know nothing of `extra`, beside those that do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from pure.types import GradientTransformation, Tree


def with_extra(transform: GradientTransformation) -> GradientTransformation:
    """Lets an optimizer that knows nothing of `extra` be called with it.

    optax's base protocol is `update(updates, state, params)`; ours passes down what was computed elsewhere.

    Args:
        transform: any pair.

    Returns:
        The same, if its update takes keyword arguments; else one that leaves them out.

    Example:
        >>> import torch
        >>> plain = GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
        >>> with_extra(plain).update({"w": torch.tensor(1.0)}, (), value=torch.tensor(0.0))[0]
        {'w': tensor(1.)}
    """
    kinds = {parameter.kind for parameter in inspect.signature(transform.update).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return transform
    return GradientTransformation(transform.init, partial(_without_extra, transform.update))


def _without_extra(
    update: Callable, updates: Tree, state: Tree, params: Tree | None = None, **extra: Any
) -> Any:
    """Calls an update that takes none."""
    return update(updates, state, params)
