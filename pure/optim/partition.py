"""Apply a different transformation to each group of leaves; a tree of labels assigns leaves to groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pure import tree
from pure.optim.leafwise import Check, mark_by_parts
from pure.optim.mask import masked
from pure.types import GradientTransformation, Tree


class PartitionState(NamedTuple):
    """The state of each group, by its label."""

    inner_states: dict[str, Tree]


def partition(
    transforms: dict[str, GradientTransformation], param_labels: Tree | Callable[[Tree], Tree]
) -> GradientTransformation:
    """Applies a different transformation to each group of leaves.

    Args:
        transforms: label -> transformation.
        param_labels: a tree of labels like the params (or a prefix of it), or a function from params to one.

    Returns:
        GradientTransformation with state PartitionState({label: MaskedState(...)}).

    Raises:
        ValueError: if a label has no transformation (at init).

    Example:
        >>> import torch
        >>> from pure.optim.scale import scale
        >>> opt = partition({"up": scale(2.0), "down": scale(-1.0)}, {"a": "up", "b": "down"})
        >>> pair = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
        >>> opt.update(pair, opt.init(pair))[0]
        {'a': tensor(2.), 'b': tensor(-1.)}
    """
    update = partial(partition_update, transforms=transforms, param_labels=param_labels)
    return GradientTransformation(
        partial(partition_init, transforms=transforms, param_labels=param_labels),
        mark_by_parts(update, partial(_groups_pass, transforms, param_labels)),
    )


multi_transform = partition
"""optax's older name of `partition`."""


def partition_init(
    params: Tree,
    *,
    transforms: dict[str, GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
) -> PartitionState:
    """Initialises each transformation for its group.

    Raises:
        ValueError: if a label has no transformation.
    """
    labels = param_labels(params) if callable(param_labels) else param_labels
    unknown = set(tree.leaves(labels)) - set(transforms)
    if unknown:
        raise ValueError(
            f"partition: no transformation for label {', '.join(map(repr, sorted(unknown)))}; there are "
            f"{', '.join(map(repr, transforms))}"
        )
    return PartitionState(
        {label: masked(t, _has_label(labels, label)).init(params) for label, t in transforms.items()}
    )


def partition_update(
    updates: Tree,
    state: PartitionState,
    params: Tree | None = None,
    *,
    transforms: dict[str, GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
    **extra: Any,
) -> tuple[Tree, PartitionState]:
    """Updates each group by its own transformation; labels are computed from the incoming updates.

    Args:
        updates: tree of updates.
        state: PartitionState.
        params, extra: passed to each transformation.
        transforms, param_labels: as in `partition`.

    Returns:
        (updates, state).
    """
    labels = param_labels(updates) if callable(param_labels) else param_labels
    states = {}
    for label, t in transforms.items():
        inner, flags = state.inner_states[label], _has_label(labels, label)
        updates, states[label] = masked(t, flags).update(updates, inner, params, **extra)
    return updates, PartitionState(states)


def _groups_pass(
    transforms: dict[str, GradientTransformation],
    param_labels: Tree | Callable[[Tree], Tree],
    check: Check,
    raw: bool,
) -> bool:
    """Checks the labels, and the groups without `grad_norm`, which is that of all groups."""
    return check(param_labels, raw) and all(check(t.update, False) for t in transforms.values())


def _has_label(labels: Tree, label: str) -> Tree:
    """Tree of labels -> tree of bools."""
    return tree.map(lambda x: x == label, labels)
