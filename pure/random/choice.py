"""Choice of elements with or without replacement, with equal or given probabilities, as in jax.random.

Without replacement and with probabilities: the Gumbel top-k trick (Kool, van Hoof, Welling, "Stochastic Beams
and Where to Find Them", 2019).

Shape letters: N elements to choose from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pure.plural import count_noun
from pure.random.gumbel import gumbel
from pure.random.integers import permutation, randint
from pure.random.threefry import device_of
from pure.random.uniform import uniform
from pure.transform.modes import has_values

BLOCK = 16
"""Numbers that XLA adds one after another in a cumulative sum on a CPU, before it adds the blocks' totals."""


def choice(
    key: Tensor,
    a: int | Tensor,
    shape: Sequence[int] = (),
    replace: bool = True,
    p: Tensor | None = None,
    axis: int = 0,
    mode: str = "low",
) -> Tensor:
    """Draws elements of a tensor along an axis, or of the numbers 0 ... a - 1.

    With p and replacement: element i with c[i - 1] < r <= c[i], c = cumsum(p), r = c[N - 1] (1 - u), u
    uniform in [0, 1). With p and without replacement: the elements of the largest ln p + Gumbel noise, in
    descending order. Without p: random integers, or the first elements of a random permutation.

    Args:
        key: [2] uint32.
        a: a tensor, or an int for the numbers 0 ... a - 1.
        shape: shape of the draws.
        replace: draw with replacement; False draws each element at most once.
        p: [N] float32 or float64, probabilities up to a common factor, at least 0; None: equal ones.
        axis: the axis of `a` along which elements are drawn.
        mode: "low" or "high", of the Gumbel noise (see `gumbel`).

    Returns:
        [...] of the dtype of `a`, with the axes `shape` in place of `axis`; for an int, int64 of `shape`.

    Edge cases: no draws give an empty result, even from nothing. Values of p are checked only in eager code
    on a CPU, where reading them is free.

    Raises:
        TypeError: if `shape` is an int, or p is not a tensor.
        ValueError: if there is nothing to choose from, if more elements are drawn without replacement than
            there are (or than have a p above 0), or if p is not [N], is in half
            precision, negative, not finite, or all 0.

    Example:
        >>> from pure import random
        >>> choice(random.key(0), 5, (5,), replace=False).tolist()  # random.permutation(random.key(0), 5)
        [0, 1, 4, 3, 2]
        >>> choice(random.key(0), torch.tensor([7, 8, 9]), (4,), p=torch.tensor([0.0, 1.0, 0.0])).tolist()
        [8, 8, 8, 8]
    """
    if isinstance(shape, int):
        raise TypeError(f"random.choice: shape must be a tuple, got {shape}; write ({shape},)")
    shape, draws = tuple(shape), math.prod(shape)
    elements = torch.arange(a, device=device_of(key)) if not isinstance(a, Tensor) else a
    if not elements.dim():
        raise TypeError("random.choice: a must be an int or a tensor with an axis, got a 0-d tensor")
    axis = axis % elements.dim()
    size = elements.shape[axis]
    result_shape = (*elements.shape[:axis], *shape, *elements.shape[axis + 1 :])
    if not draws:
        return elements.new_zeros(result_shape)
    if not size:
        raise ValueError("random.choice: a is empty; give an a with elements, or a shape without draws")
    if not replace and draws > size:
        raise ValueError(
            f"random.choice: {count_noun(draws, 'draw')} without replacement from {size}; draw at most "
            f"{size}, or set replace=True"
        )
    if p is None and not replace:
        return permutation(key, elements, axis).narrow(axis, 0, draws).reshape(result_shape)
    if p is None:
        index = randint(key, shape, 0, size).long()
    else:
        p = _check_probabilities(p, size, 0 if replace else draws)
        index = _draw_with_replacement(key, p, shape) if replace else _draw_distinct(key, p, draws, mode)
    return elements.index_select(axis, index.flatten()).reshape(result_shape)


def cumulative_sum(x: Tensor) -> Tensor:
    """Adds up a vector from its start, in the order and with the rounding of XLA on a CPU.

    Blocks of 16 are added one number after another; then the sums of the blocks before, themselves a
    cumulative sum, are added to each.

    Args:
        x: [N] float.

    Returns:
        [N], the same dtype.

    Example:
        >>> cumulative_sum(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [1.0, 3.0, 6.0]
    """
    size = len(x)
    blocks = torch.nn.functional.pad(x, (0, -size % BLOCK)).reshape(-1, BLOCK)
    sums = [blocks[:, 0]]
    for column in blocks.unbind(1)[1:]:
        sums.append(sums[-1] + column)
    within = torch.stack(sums, 1)
    if size > BLOCK:
        totals = cumulative_sum(within[:, -1])
        within = within + torch.nn.functional.pad(totals[:-1], (1, 0))[:, None]
    return within.flatten()[:size]


def _draw_with_replacement(key: Tensor, p: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws indices with replacement, by the inverse distribution function: int64 of `shape`."""
    sums = cumulative_sum(p).clone(memory_format=torch.contiguous_format)
    return torch.searchsorted(sums, sums[-1] * (1 - uniform(key, shape, p.dtype)))


def _draw_distinct(key: Tensor, p: Tensor, draws: int, mode: str) -> Tensor:
    """Draws indices without replacement, those of the largest noisy log-probabilities: int64 [draws]."""
    noisy = gumbel(key, p.shape, p.dtype, mode) + p.log()
    return noisy.argsort(descending=True, stable=True)[:draws]


def _check_probabilities(p: Any, size: int, distinct: int) -> Tensor:
    """Converts probabilities to floats; refuses wrong types, shapes and, where reading is free, values."""
    if not isinstance(p, Tensor):
        raise TypeError(f"random.choice: p must be a tensor, got {type(p).__name__}; write torch.tensor(p)")
    if p.shape != (size,):
        raise ValueError(f"random.choice: p must be [{size}], one for each element, got {list(p.shape)}")
    if p.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"random.choice: p must be float32 or float64, got {p.dtype}, whose sums would be far off; write "
            "p.float()"
        )
    p = p if p.is_floating_point() else p.float()
    if p.device.type != "cpu" or not has_values(p):
        return p
    if not (p.isfinite().all() and (p >= 0).all() and p.any()):
        raise ValueError(
            "random.choice: p must be finite, at least 0, and somewhere above 0; clip or mask it"
        )
    if (p > 0).sum() < distinct:
        raise ValueError(
            f"random.choice: {count_noun(distinct, 'draw')} without replacement, but p is above 0 for "
            f"{int((p > 0).sum())}; draw fewer"
        )
    return p
