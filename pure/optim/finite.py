"""Skips updates that are not finite, and counts them.

One NaN or infinity in a gradient would spoil the moments for good; skipping the update costs one batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import increment
from pure.types import GradientTransformation, Tree


class ApplyIfFiniteState(NamedTuple):
    """Counts of what was skipped, and the state of the transformation inside."""

    notfinite_count: Tensor  # [] int32  updates not finite in a row, up to now
    last_finite: Tensor  # [] bool   whether the last update was finite
    total_notfinite: Tensor  # [] int32  updates not finite, in all
    inner_state: Tree


def apply_if_finite(inner: GradientTransformation, max_consecutive_errors: int) -> GradientTransformation:
    """Lets `inner` act only on finite updates; others give zero updates and leave its state, its count too,
    as it was.

    Args:
        inner: the transformation to protect.
        max_consecutive_errors: after more than so many in a row the update is applied, finite or not, so that
            a run that is beyond help fails in the open; >= 0.

    Returns:
        GradientTransformation with state ApplyIfFiniteState.

    Raises:
        ValueError: if max_consecutive_errors is not an int >= 0.

    Example:
        >>> from pure.optim.sgd import sgd
        >>> opt = apply_if_finite(sgd(1.0), max_consecutive_errors=5)
        >>> updates, state = opt.update(torch.tensor([float("nan"), 1.0]), opt.init(torch.zeros(2)))
        >>> updates, state.total_notfinite.item()
        (tensor([0., 0.]), 1)
    """
    if not isinstance(max_consecutive_errors, int) or max_consecutive_errors < 0:
        raise ValueError(
            f"apply_if_finite: max_consecutive_errors must be an int >= 0, got {max_consecutive_errors!r}; 5 is common"
        )
    return GradientTransformation(
        partial(finite_init, inner=inner),
        partial(finite_update, inner=inner, max_consecutive_errors=max_consecutive_errors),
    )


def finite_init(params: Tree, *, inner: GradientTransformation) -> ApplyIfFiniteState:
    """Starts all counts at 0."""
    values = tree.leaves(params)
    device = values[0].device if values else None
    return ApplyIfFiniteState(
        notfinite_count=torch.zeros((), dtype=torch.int32, device=device),
        last_finite=torch.ones((), dtype=torch.bool, device=device),
        total_notfinite=torch.zeros((), dtype=torch.int32, device=device),
        inner_state=inner.init(params),
    )


def finite_update(
    updates: Tree,
    state: ApplyIfFiniteState,
    params: Tree | None = None,
    *,
    inner: GradientTransformation,
    max_consecutive_errors: int,
    **extra: Any,
) -> tuple[Tree, ApplyIfFiniteState]:
    """Computes the update in any case, and chooses by `torch.where` whether to keep it.

    Args:
        updates: tree of gradients.
        state: ApplyIfFiniteState.
        params: handed to `inner`.
        inner, max_consecutive_errors: as in `apply_if_finite`.
        extra: `finite` [] bool, if given, is taken for the answer: `updates` may then be a part of the tree.
            All is handed to `inner`.

    Returns:
        (updates, state).

    Steps:
        1. Is all of it finite?
        2. Count; apply if finite, or if too many in a row were not.
        3. The update of `inner`; kept, or zeros and its old state.
    """
    # 1. Finite?
    finite = extra["finite"] if extra.get("finite") is not None else all_finite(updates)
    # 2. Counts.
    in_a_row = torch.where(finite, 0, increment(state.notfinite_count))
    total = torch.where(finite, state.total_notfinite, increment(state.total_notfinite))
    apply = finite | (in_a_row > max_consecutive_errors)
    # 3. One of two.
    new, inner_state = inner.update(updates, state.inner_state, params, **extra)
    kept = tree.map(lambda u: torch.where(apply, u, 0), new)
    return kept, ApplyIfFiniteState(
        in_a_row, finite, total, tree.where(apply, inner_state, state.inner_state)
    )


def all_finite(updates: Tree) -> Tensor:
    """Says whether no element of any leaf is NaN or infinite: [] bool.

    Example:
        >>> all_finite({"a": torch.tensor([1.0, float("inf")])})
        tensor(False)
    """
    values = tree.leaves(updates)
    return torch.stack([x.isfinite().all() for x in values]).all() if values else torch.tensor(True)
