"""Marks of leafwise functions, which may be applied to one part of a tree at a time. (Why: see base.py.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pure.types import GradientTransformation

MARK = "leafwise_rule"
"""Attribute in which a function holds its rule."""

Rule = Callable[[bool], bool]
"""Decides if a function is leafwise, given `raw`: the updates are still the gradients whose norm is known."""

F = TypeVar("F", bound=Callable)


def always(raw: bool) -> bool:
    """Is the rule of a function that is leafwise everywhere."""
    return True


def leafwise(function: F, rule: Rule = always) -> F:
    """Marks an update, or a function that makes a mask or labels, as leafwise.

    The function that makes an optimizer marks its update, so that a new optimizer declares this itself. What
    is not marked counts as not leafwise.

    Args:
        function: an update: updating a part of the tree gives that part of the whole update, given what
            base.py calls `extra`. Or a function from params to a mask, the same for every layer.
        rule: for an update that is leafwise on a condition, such as a chain.

    Returns:
        The same function, marked.

    Example:
        >>> halve = lambda updates, state, params=None, **extra: ([g / 2 for g in updates], state)
        >>> is_leafwise(GradientTransformation(lambda params: (), leafwise(halve)))
        True
    """
    setattr(function, MARK, rule)
    return function


def is_leafwise(transform: GradientTransformation) -> bool:
    """Reports if updating a part of the tree gives that part of the whole update, given base.py's `extra`.

    Args:
        transform: any transformation; one from elsewhere is not leafwise, unless it is marked.

    Returns:
        False for a clip_by_global_norm that does not get the raw gradients (after another link, or under a
        mask), for masks that are trees or unmarked functions, or select layers by number; True for all else
        here.

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
    return marked_leafwise(transform.update, True)


def marked_leafwise(function: Any, raw: bool = False) -> bool:
    """Evaluates the rule of a function, False if it has none.

    `partial(marked_leafwise, inner.update)` is the rule of a transformation that is leafwise if `inner` is.
    """
    rule = getattr(function, MARK, None)
    return rule is not None and rule(raw)
