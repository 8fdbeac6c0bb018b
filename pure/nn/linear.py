"""The one matrix product: every weight of the model meets its input here.

Adapters and quantised weights enter at this door, as nodes in the place of a tensor, so that no other file knows of
them.

Shape letters: I input width, O output width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pure.nn.packed import Packed, packed_linear
from pure.types import Tree


def linear(weight: Tensor | Packed, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies by a weight matrix and adds a bias.

        y = x Wᵀ + b

    Args:
        weight: [O, I], as torch, PEFT and bitsandbytes store it; or a node that stands for it (`Packed`).
        x: [..., I], same dtype.
        bias: [O] or None.

    Returns:
        [..., O].

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0])).item()
        11.0
    """
    return packed_linear(weight, x, bias) if isinstance(weight, Packed) else F.linear(x, weight, bias)


def linears(params: Tree, names: tuple[str, ...], sizes: tuple[int, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Multiplies the same x by several matrices: at once, where `pure.nn.prepare` has made one matrix of them.

    Args:
        params: has the matrices by name, and a bias beside each or none: "q", "k", "q_bias", "k_bias"; or one matrix
            "q_k" and one bias "q_k_bias".
        names: ("q", "k").
        sizes: the matrices' output widths.
        x: [..., I].

    Returns:
        One [..., O] for each name.

    Example:
        >>> x, two, three = torch.ones(1), torch.tensor([[2.0]]), torch.tensor([[3.0]])
        >>> linears({"q": two, "k": three}, ("q", "k"), (1, 1), x)
        (tensor([2.]), tensor([3.]))
        >>> linears({"q_k": torch.cat([two, three])}, ("q", "k"), (1, 1), x)
        (tensor([2.]), tensor([3.]))
    """
    joint = "_".join(names)
    if joint in params:
        return linear(params[joint], x, params.get(f"{joint}_bias")).split(sizes, -1)
    return tuple(linear(params[name], x, params.get(f"{name}_bias")) for name in names)
