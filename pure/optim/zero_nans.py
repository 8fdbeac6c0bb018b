"""Replacement of NaN by zero, with a flag for each leaf that had one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pure import tree
from pure.optim.leafwise import leafwise
from pure.types import GradientTransformation, Tree


class ZeroNansState(NamedTuple):
    """Flags of the last update: a tree like the params of [] bool, True where the leaf had a NaN."""

    found_nan: Tree


def zero_nans() -> GradientTransformation:
    """Builds the transformation that replaces NaN by 0; infinities stay.

    `apply_if_finite` skips the whole update instead, which is safer: the rest of a gradient with a NaN is
    seldom right.

    Returns:
        GradientTransformation with state ZeroNansState.

    Example:
        >>> opt = zero_nans()
        >>> opt.update({"a": torch.tensor([float("nan"), 1.0])}, opt.init({"a": torch.zeros(2)}))
        ({'a': tensor([0., 1.])}, ZeroNansState(found_nan={'a': tensor(True)}))
    """
    return GradientTransformation(zero_nans_init, zero_nans_update)


def zero_nans_init(params: Tree) -> ZeroNansState:
    """Initialises all flags with False."""
    return ZeroNansState(tree.map(lambda p: torch.zeros((), dtype=torch.bool, device=p.device), params))


@leafwise
def zero_nans_update(
    updates: Tree, state: ZeroNansState, params: Tree | None = None, **extra: Any
) -> tuple[Tree, ZeroNansState]:
    """Replaces NaN by 0 in every leaf, and flags the leaves that had one."""
    del state, params, extra
    found = tree.map(lambda g: g.isnan().any(), updates)
    return tree.map(lambda g: torch.where(g.isnan(), 0.0, g), updates), ZeroNansState(found)
