"""Whitening of advantages or rewards: standard deviation 1, and mean 0.

Ziegler et al., "Fine-Tuning Language Models from Human Preferences", 2019, whose code whitens advantages, and
rewards without moving their mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.loss.check import check_range, expect, upcast


def whiten(x: Tensor, mask: Tensor, *, keep_mean: bool = False, eps: float = 1e-8) -> Tensor:
    """Normalises the unmasked values to standard deviation 1, and to mean 0 unless `keep_mean`.

    The size of the steps then does not depend on the unit of the reward.

        y = (x - mean) / √(var + eps)  [+ mean]        var with n - 1

    Args:
        x: [...] float.
        mask: [...] bool, True on the values that are normalised.
        keep_mean: add the mean back: for rewards, whose sign is meaningful.
        eps: >= 0, added to the variance, inside the root.

    Returns:
        [...] float, 0 where masked: float32, or float64 as given.

    Steps:
        1. Check the arguments: `expect` with the dims and kinds under Args, `check_range` for eps. Upcast x.
        2. Mean [] of the unmasked values; of none, 0.
        3. Differences from it, [...]: 0 where masked, and all 0 if `_all_equal(x, mask)`.
        4. Variance [] with n - 1 (1 if n is below 2).
        5. Multiply the differences by 1/√(var + eps); with keep_mean add the mean where unmasked.

    Edge cases: a single value, or equal values, become exactly 0 (with `keep_mean` their mean), not rounding
    errors divided by rounding errors.

    Raises:
        ValueError: if the shapes differ, or eps is negative.
        TypeError: for another dtype.

    Example:
        >>> whiten(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])).round(decimals=4)
        tensor([-0.7071,  0.7071,  0.0000])
    """
    # 1. Check.
    expect("whiten", x=(x, "...", "float"), mask=(mask, "...", "bool"))
    check_range("whiten", "at least 0", eps=eps)
    x = upcast(x)
    # 2. Mean [].
    count = mask.sum()
    mean = torch.where(mask, x, 0.0).sum() / count.clamp(min=1)
    # 3. Differences [...].
    centred = torch.where(mask & ~_all_equal(x, mask), x - mean, 0.0)
    # 4. Variance [].
    variance = centred.square().sum() / (count - 1).clamp(min=1)
    # 5. Scale [...].
    scaled = centred * torch.rsqrt(variance + eps)
    return torch.where(mask, scaled + mean, 0.0) if keep_mean else scaled


def _all_equal(x: Tensor, mask: Tensor) -> Tensor:
    """Reports if all unmasked values are equal, or none is unmasked: [] bool."""
    if not x.numel():
        return torch.ones((), dtype=torch.bool, device=x.device)
    return torch.where(mask, x, torch.inf).amin() >= torch.where(mask, x, -torch.inf).amax()
