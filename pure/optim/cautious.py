"""Cautious updates: an optimizer moves only the coordinates in which its step goes down the newest gradient.

Shape letters: none; one factor for each leaf.

Liang, Chen, Liu and Liu, "Cautious Optimizers: Improving Training with One Line of Code", 2024.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.optim.adamw import scale_by_adam
from pure.optim.base import Scalar, ScalarOrSchedule, chain, store_once, upcast
from pure.optim.check import check_not_negative
from pure.optim.extra import with_extra
from pure.optim.leafwise import is_leafwise_function, leafwise
from pure.optim.mask import Mask
from pure.optim.same_shapes import check_same_shapes
from pure.optim.scale import scale_by_learning_rate
from pure.optim.weight_decay import add_decayed_weights
from pure.types import GradientTransformation, Tree


def cautious_adamw(
    learning_rate: ScalarOrSchedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: torch.dtype | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    """Builds C-AdamW: AdamW whose Adam step is masked by `cautious`; the weight decay is not masked.

    Args:
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask: as in `adamw`.

    Returns:
        GradientTransformation with the state of `adamw`.

    Raises:
        ValueError: as in `adamw`.

    Example:
        One of two coordinates keeps its sign; it moves by Adam's step times 2 / (1 + 1).

        >>> opt, params = cautious_adamw(0.1, weight_decay=0.0), torch.zeros(2)
        >>> state = opt.update(torch.tensor([4.0, 4.0]), opt.init(params), params)[1]
        >>> opt.update(torch.tensor([4.0, -1.0]), state, params)[0]
        tensor([-0.1000, -0.0000])

    Source: Liang et al. 2024, algorithm 2.
    """
    check_not_negative("cautious_adamw", optional=True, learning_rate=learning_rate)
    return chain(
        cautious(scale_by_adam(b1, b2, eps, eps_root, mu_dtype), negated=False),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def cautious(
    base_optimizer: GradientTransformation, eps: Scalar = 1.0, *, negated: bool = True
) -> GradientTransformation:
    """Masks the updates of an optimizer where their sign disagrees with the newest gradient.

    Momentum may still point up after the gradient has turned. Such a coordinate waits a step, and the others
    move further, so that the mean step keeps about its size.

        u ← u φ n / (Σ φ + eps),   φ = 1 where u moves against g, else 0;  n elements of the leaf

    Args:
        base_optimizer: any transformation of raw gradients.
        eps: added to the number of kept coordinates, >= 0; 1 is the paper's, and 0 keeps the mean of equal
            steps exactly.
        negated: True if the updates of `base_optimizer` are to be added to the params, as those of every
            whole optimizer; False for a `scale_by_...`, whose updates have the sign of the gradient.

    Returns:
        GradientTransformation with the state of `base_optimizer`.

    Raises:
        ValueError: if eps is negative; at the update, if an update has another shape than its gradient.

    Edge cases: a coordinate with gradient 0 or update 0 does not move; a leaf in which no sign agrees stays.
    A weight decay inside `base_optimizer` is masked with the step; see `cautious_adamw`.

    Example:
        >>> from pure.optim.sgd import sgd
        >>> opt, params = cautious(sgd(0.5, momentum=0.9), eps=0.0), torch.zeros(2)
        >>> state = opt.update(torch.tensor([2.0, 2.0]), opt.init(params), params)[1]
        >>> opt.update(torch.tensor([1.0, -1.0]), state, params)[0]
        tensor([-2.8000, -0.0000])

    Source: Liang et al. 2024, algorithm 1; `eps` is its ξ.
    """
    check_not_negative("cautious", eps=eps)
    base = with_extra(base_optimizer)
    update = partial(cautious_update, base=base, eps=eps, negated=negated)
    return GradientTransformation(base.init, leafwise(update, partial(is_leafwise_function, base.update)))


def cautious_update(
    updates: Tree,
    state: Tree,
    params: Tree | None = None,
    *,
    base: GradientTransformation,
    eps: Scalar,
    negated: bool,
    **extra: Any,
) -> tuple[Tree, Tree]:
    """Applies the base optimizer, and masks its updates; see `cautious` for the formula.

    Args:
        updates: tree of gradients g.
        state: state of `base`.
        params, extra: passed to `base`.
        base, eps, negated: as in `cautious`.

    Returns:
        (updates, state), the updates in the dtypes of those of `base`.
    """
    steps, new_state = base.update(updates, state, params, **extra)
    check_same_shapes(updates, steps)

    def leaf(g: Tensor, u: Tensor) -> Tensor:
        agreement = g.sign() * u.sign()
        keep = (agreement < 0) if negated else (agreement > 0)
        step = upcast(u)
        count = keep.sum().to(step.dtype)
        factor = torch.where(count > 0, keep.numel() / (torch.where(count > 0, count, 1.0) + eps), 0.0)
        return torch.where(keep, step * store_once(factor), 0.0 * step).to(u.dtype)

    return tree.map(leaf, updates, steps), new_state
