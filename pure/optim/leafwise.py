"""Mark functions as leafwise, which may be applied to one sub-tree at a time, or as elementwise, which may be
applied to some rows of each leaf. (base.py explains why.)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from pure.types import GradientTransformation

LEAFWISE = "leafwise_rule"
ELEMENTWISE = "elementwise_rule"
"""Attributes that hold the rules of a function."""

Rule = Callable[[bool], bool]
"""Decides if a function is leafwise (elementwise), given `raw`: True if its updates are the gradients, not
yet transformed. The global norm of those is known (`grad_norm` in `extra`)."""

Check = Callable[[Any, bool], bool]
"""`is_leafwise_function` or `is_elementwise_function`: (function, raw) -> bool."""

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
    return _mark(function, LEAFWISE, rule)


def elementwise(function: F, rule: Rule = always) -> F:
    """Marks an update, or a function that makes a mask or labels, as elementwise, and so as leafwise.

    A function without a mark counts as not elementwise: its update is computed from whole leaves, which is
    right, and costs more memory where the leaves are cut over processes.

    Args:
        function: an update each of whose elements, given base.py's `extra`, depends on that element of the
            gradient, of the params and of the state only, where leaves [] of the state are the same for all
            elements, and the others have the shapes of the params; or a function from params to a mask or
            labels that reads paths, not shapes.
        rule: as in `leafwise`.

    Returns:
        The same function, marked.

    Example:
        >>> halve = lambda updates, state, params=None, **extra: ([g / 2 for g in updates], state)
        >>> is_elementwise(GradientTransformation(lambda params: (), elementwise(halve)))
        True
    """
    return _mark(leafwise(function, rule), ELEMENTWISE, rule)


def elementwise_only(function: F) -> F:
    """Marks a function that makes a mask or labels as elementwise, and not as leafwise: it selects layers."""
    return _mark(function, ELEMENTWISE, always)


def mark_by_parts(function: F, rule: Callable[[Check, bool], bool]) -> F:
    """Marks an update that is made of others as what they are.

    Args:
        function: an update, or a function that makes a mask or labels.
        rule: (check, raw) -> bool, which applies the check to each of the parts, with their own `raw`.

    Returns:
        The same function, marked.
    """
    return _mark(
        leafwise(function, partial(rule, is_leafwise_function)),
        ELEMENTWISE,
        partial(rule, is_elementwise_function),
    )


def mark_as_inner(function: F, inner: GradientTransformation) -> F:
    """Marks the update of a wrapper as that of `inner`, to which it gives its own updates and `extra`."""
    return mark_by_parts(function, partial(_inner_passes, inner))


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


def is_elementwise(transform: GradientTransformation) -> bool:
    """Checks if a transformation updates some rows of each leaf the same alone as inside the whole leaves.

    Args:
        transform: any transformation; one that is not from this package must be marked to be elementwise.

    Returns:
        True for sgd, Adam and its relatives, Lion, schedules, decay and clips of single elements, and chains,
        masks and groups of them; clip_by_global_norm only where it is leafwise. False for those that read the
        shape or a norm of a leaf (Muon, SOAP, Adafactor, LAMB, `cautious`), for masks by unmarked functions,
        and for MultiSteps.

    Example:
        >>> from pure.optim.adamw import adamw
        >>> from pure.optim.muon import muon
        >>> is_elementwise(adamw(1e-3)), is_elementwise(muon(1e-3))
        (True, False)
    """
    return is_elementwise_function(transform.update, True)


def is_leafwise_function(function: Any, raw: bool = False) -> bool:
    """Evaluates the rule of a function; a function without one is not leafwise."""
    rule = getattr(function, LEAFWISE, None)
    return rule is not None and rule(raw)


def is_elementwise_function(function: Any, raw: bool = False) -> bool:
    """Evaluates the rule of a function; one without is not elementwise, a mask or labels as a tree are."""
    rule = getattr(function, ELEMENTWISE, None)
    return not callable(function) if rule is None else rule(raw)


def _mark(function: F, name: str, rule: Rule) -> F:
    """Sets the attribute; a compiler cannot trace that, and asks for no mark."""
    if not torch.compiler.is_compiling():
        setattr(function, name, rule)
    return function


def _inner_passes(inner: GradientTransformation, check: Check, raw: bool) -> bool:
    """The rule of a wrapper: that of what it wraps."""
    return check(inner.update, raw)
