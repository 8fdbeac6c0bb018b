"""Which transformations may be applied to one part of the tree at a time. (Why: see base.py.)"""

from __future__ import annotations

from functools import partial
from typing import Any

from pure.optim.base import chain_update, identity_update
from pure.optim.clip import clip_by_global_norm_update
from pure.optim.finite import finite_update
from pure.optim.inject import inject_update
from pure.optim.mask import Mask, decay_mask, masked_update, match_paths
from pure.optim.muon import muon_labels
from pure.optim.partition import partition_update
from pure.types import GradientTransformation


def is_leafwise(transform: GradientTransformation) -> bool:
    """Says whether updating a part of the tree gives that part of the whole update, given what base.py calls
    `extra`.

    Args:
        transform: any transformation. Ones that are not from here count as not leafwise, for nobody can know.

    Returns:
        False for a clip_by_global_norm that does not see the raw gradients (behind another link, or under a
        mask), for masks that are trees or foreign functions, or tell layers apart by number; True for all
        else here.

    Example:
        >>> from pure.optim.adamw import adamw, scale_by_adam
        >>> from pure.optim.base import chain
        >>> from pure.optim.clip import clip_by_global_norm
        >>> is_leafwise(chain(clip_by_global_norm(1.0), adamw(1e-3, mask=decay_mask)))
        True
        >>> is_leafwise(chain(scale_by_adam(), clip_by_global_norm(1.0)))
        False
    """
    return _leafwise(transform, raw=True)


def _leafwise(transform: GradientTransformation, raw: bool) -> bool:
    """`raw`: the updates are still the gradients whose norm is known."""
    function, bound = _function(transform.update), _bound(transform.update)
    if function is chain_update:
        links = bound["transforms"]
        first = next((i for i, t in enumerate(links) if _function(t.update) is not identity_update), 0)
        return all(_leafwise(t, raw and i <= first) for i, t in enumerate(links))
    if function is masked_update:
        return _by_name(bound["mask"]) and _leafwise(bound["inner"], raw=False)
    if function is partition_update:
        by_name = _function(bound["param_labels"]) is muon_labels and _dimensions(bound["param_labels"])
        return by_name and all(_leafwise(t, raw=False) for t in bound["transforms"].values())
    if function is inject_update:
        return _leafwise(
            bound["factory"](**bound["rest"], **bound["schedules"], **_bound(transform.init)["numbers"]), raw
        )
    if function is finite_update:
        return _leafwise(bound["inner"], raw)
    if function is clip_by_global_norm_update:
        return raw
    return getattr(function, "__module__", "").startswith("pure.optim.")


def _by_name(mask: Mask) -> bool:
    """Whether a mask goes by names that all layers share."""
    function = _function(mask)
    pieces = [*_bound(mask).get("include", ()), *_bound(mask).get("exclude", ())]
    return function in (decay_mask, match_paths) and not any(c.isdigit() for piece in pieces for c in piece)


def _dimensions(labels: Any) -> bool:
    """Whether Muon's dimension numbers are the same for all layers."""
    dims = _bound(labels)["dimensions"]
    return dims is None or getattr(dims, "__module__", "").startswith("pure.optim.")


def _function(x: Any) -> Any:
    """What a partial calls; anything else itself."""
    return x.func if isinstance(x, partial) else x


def _bound(x: Any) -> dict[str, Any]:
    """The arguments that a partial binds by name."""
    return x.keywords if isinstance(x, partial) else {}
