"""Mark functions as leafwise: they may be applied to one sub-tree at a time. (base.py explains why.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pure.types import GradientTransformation

MARK = "leafwise_rule"
"""Attribute that holds the rule of a function."""

Rule = Callable[[bool], bool]
"""Decides if a function is leafwise, given `raw`: True if its updates are the gradients, not yet transformed.

The global norm of those is known (`grad_norm` in `extra`)."""

F = TypeVar("F", bound=Callable)


def always(raw: bool) -> bool:
    """Returns True: the rule of a function that is leafwise unconditionally."""
    return True


def leafwise(function: F, rule: Rule = always) -> F:
    """Marks an update, or a function that makes a mask or labels, as leafwise.

    Each optimizer marks its own update. A function without a mark counts as not leafwise.

    Args:
        function: an update that, given base.py's `extra`, treats a sub-tree the same alone as inside the
            whole tree; or a function from params to a mask or labels that are the same for every layer.
        rule: for an update that is leafwise on a condition, such as that of a chain.

    Returns:
        The same function, marked.

    Example:
        >>> halve = lambda updates, state, params=None, **extra: ([g / 2 for g in updates], state)
        >>> is_leafwise(GradientTransformation(lambda params: (), leafwise(halve)))
        True
    """
    if not torch.compiler.is_compiling():  # a compiler cannot trace it, and asks for no mark
        setattr(function, MARK, rule)
    return function


def is_leafwise(transform: GradientTransformation) -> bool:
    """Checks if a transformation updates a sub-tree the same alone as inside the whole tree.

    Args:
        transform: any transformation; one that is not from this package must be marked to be leafwise.

    Returns:
        True for the transformations of this package, with these exceptions: clip_by_global_norm after another
        transformation of a chain or under a mask, as it must get the raw gradients; MultiSteps, whose
        gradients are means over steps; and masks that are trees, unmarked functions, or select layers by
        number.

    Example:
        >>> from pure.optim.adamw import adamw, scale_by_adam
        >>> from pure.optim.base import chain
        >>> from pure.optim.clip import clip_by_global_norm
        >>> from pure.optim.mask import decay_mask
        >>> is_leafwise(chain(clip_by_global_norm(1.0), adamw(1e-3, mask=decay_mask)))
        True
        >>> is_leafwise(chain(scale_by_adam(), clip_by_global_norm(1.0)))
        False
    """
    return is_leafwise_function(transform.update, True)


def is_leafwise_function(function: Any, raw: bool = False) -> bool:
    """Evaluates the rule of a function; a function without one is not leafwise.

    `partial(is_leafwise_function, inner.update)` is the rule of a transformation that is leafwise if `inner`
    is.
    """
    rule = getattr(function, MARK, None)
    return rule is not None and rule(raw)
