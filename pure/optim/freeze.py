"""Frozen parameters: updates of zero for the leaves of a mask."""

from __future__ import annotations

from functools import partial
from typing import Any

from pure import tree
from pure.optim.base import EmptyState, empty_init
from pure.optim.leafwise import Check, elementwise, mark_by_parts
from pure.optim.mask import Mask, masked
from pure.optim.partition import partition
from pure.optim.same_shapes import check_same_shapes
from pure.types import GradientTransformation, Tree


def set_to_zero() -> GradientTransformation:
    """Builds the transformation whose updates are all zero: parameters stay as they are.

    Example:
        >>> import torch
        >>> opt = set_to_zero()
        >>> opt.update(torch.tensor([3.0, float("nan")]), opt.init(torch.zeros(2)))
        (tensor([0., 0.]), EmptyState())
    """
    return GradientTransformation(empty_init, set_to_zero_update)


@elementwise
def set_to_zero_update(
    updates: Tree, state: EmptyState, params: Tree | None = None, **extra: Any
) -> tuple[Tree, EmptyState]:
    """Returns zeros like `updates`, whatever these hold, and the state."""
    del extra
    if params is not None:
        check_same_shapes(updates, params)
    return tree.zeros_like(updates), state


def freeze(mask: Mask) -> GradientTransformation:
    """Sets the updates to zero where the mask is True, and passes the others.

    As the last link of a chain: after it the optimizer still keeps moments of frozen leaves;
    `selective_transform` keeps none.

    Args:
        mask: True for leaves that are frozen: a tree of bools like the params, a prefix of one (a bool for
            all), or a function from params to one, such as `path_mask("embedding")`.

    Returns:
        GradientTransformation with state MaskedState(EmptyState()).

    Example:
        >>> import torch
        >>> opt, grads = freeze({"a": True, "b": False}), {"a": torch.ones(1), "b": torch.ones(1)}
        >>> opt.update(grads, opt.init(grads))[0]
        {'a': tensor([0.]), 'b': tensor([1.])}
    """
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: GradientTransformation, *, freeze_mask: Mask) -> GradientTransformation:
    """Applies `optimizer` to the leaves that are not frozen; frozen ones have no state and updates of zero.

    Args:
        optimizer: the transformation of the other leaves.
        freeze_mask: as in `freeze`.

    Returns:
        GradientTransformation with state PartitionState({"train": MaskedState(...), "freeze": ...}).

    Example:
        >>> import torch
        >>> from pure.optim.sgd import sgd
        >>> opt = selective_transform(sgd(1.0), freeze_mask={"a": True, "b": False})
        >>> grads = {"a": torch.ones(1), "b": torch.ones(1)}
        >>> opt.update(grads, opt.init(grads))[0]
        {'a': tensor([0.]), 'b': tensor([-1.])}
    """
    labels = mark_by_parts(partial(freeze_labels, mask=freeze_mask), partial(_mask_passes, freeze_mask))
    return partition({"train": optimizer, "freeze": set_to_zero()}, labels)


def freeze_labels(params: Tree, *, mask: Mask) -> Tree:
    """Computes a tree of labels from a mask: "freeze" where it is True, else "train"."""
    return tree.map(lambda frozen: "freeze" if frozen else "train", mask(params) if callable(mask) else mask)


def _mask_passes(mask: Mask, check: Check, raw: bool) -> bool:
    """Checks the mask: labels are as it is."""
    return check(mask, raw)
