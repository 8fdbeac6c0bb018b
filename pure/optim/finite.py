"""Skipping of updates that are not finite, with counters.

One NaN or infinity in a gradient would stay in the moments; skipping the update costs one batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.optim.base import increment
from pure.optim.leafwise import mark_as_inner
from pure.types import GradientTransformation, Tree


class ApplyIfFiniteState(NamedTuple):
    """Counters of skipped updates, and the inner state."""

    notfinite_count: Tensor  # [] int32  latest updates in a row that were not finite
    last_finite: Tensor  # [] bool   the last update was finite
    total_notfinite: Tensor  # [] int32  all updates that were not finite
    inner_state: Tree


def apply_if_finite(inner: GradientTransformation, max_consecutive_errors: int) -> GradientTransformation:
    """Applies `inner` to finite updates only; for others the updates are zero and its state is unchanged.

    Args:
        inner: the transformation to protect.
        max_consecutive_errors: >= 0; after more errors in a row the update is applied although it is not
            finite, so that a diverged run fails visibly.

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
            f"apply_if_finite: max_consecutive_errors must be an int >= 0, got {max_consecutive_errors!r}; "
            "5 is common"
        )
    return GradientTransformation(
        partial(finite_init, inner=inner),
        mark_as_inner(
            partial(finite_update, inner=inner, max_consecutive_errors=max_consecutive_errors), inner
        ),
    )


def finite_init(params: Tree, *, inner: GradientTransformation) -> ApplyIfFiniteState:
    """Initialises all counters with 0, and the state of `inner`."""
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
    """Computes the update, and selects it or zeros by `torch.where`.

    Args:
        updates: tree of gradients.
        state: ApplyIfFiniteState.
        params: passed to `inner`.
        inner, max_consecutive_errors: as in `apply_if_finite`.
        extra: `finite` [] bool, if given, replaces the check: `updates` may then be a part of the tree. All
            of it is passed to `inner`.

    Returns:
        (updates, state).

    Steps:
        1. Check that all updates are finite.
        2. Count; apply if finite, or after too many errors in a row.
        3. Update by `inner`; select its result, or zeros and its old state.
    """
    # 1. Check.
    finite = extra["finite"] if extra.get("finite") is not None else all_finite(updates)
    # 2. Count.
    in_a_row = torch.where(finite, 0, increment(state.notfinite_count))
    total = torch.where(finite, state.total_notfinite, increment(state.total_notfinite))
    apply = finite | (in_a_row > max_consecutive_errors)
    # 3. Select.
    new_updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
    selected = tree.map(lambda u: torch.where(apply, u, 0), new_updates)
    return selected, ApplyIfFiniteState(
        in_a_row, finite, total, tree.where(apply, inner_state, state.inner_state)
    )


def all_finite(updates: Tree) -> Tensor:
    """Checks that no element of any leaf is NaN or infinite: [] bool.

    Example:
        >>> all_finite({"a": torch.tensor([1.0, float("inf")])})
        tensor(False)
    """
    values = tree.leaves(updates)
    return torch.stack([x.isfinite().all() for x in values]).all() if values else torch.tensor(True)
