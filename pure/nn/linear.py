"""The one matrix product: every weight of the model meets its input here.

Adapters and quantised weights enter at this door, as nodes in the place of a tensor, so that no other file knows of
them.

Shape letters: I input width, O output width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies by a weight matrix and adds a bias.

        y = x Wᵀ + b

    Args:
        weight: [O, I], as torch, PEFT and bitsandbytes store it.
        x: [..., I], same dtype.
        bias: [O] or None.

    Returns:
        [..., O].

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0])).item()
        11.0
    """
    return F.linear(x, weight, bias)
