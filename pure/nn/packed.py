"""Weights in the order in which a CPU's bfloat16 products read them.

A product of few rows, as in every step of generation, costs less time than bringing its weights into that
order; so whoever multiplies by the same weights many times does it once.

Shape letters: I input width, O output width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """A weight matrix that `pure.nn.linear.linear` takes in the place of a tensor.

    Fields:
        weight: [O, I] bfloat16, in oneDNN's own layout: its numbers can only be multiplied with, and carry no
            gradient.
    """

    weight: Tensor


def pack(weight: Tensor) -> Tensor | Packed:
    """Brings a matrix into that order, where there is one: a copy.

    Args:
        weight: [...]; only matrices [O, I] are packed.

    Returns:
        Packed; or the weight as it was, if it is not a bfloat16 matrix on a CPU that multiplies those.
    """
    fits = weight.ndim == 2 and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    if (
        not fits
        or not torch.backends.mkldnn.is_available()
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return weight
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))


def packed_linear(weight: Packed, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x Wᵀ + b; see `pure.nn.linear.linear`."""
    return torch.ops.intro2llm.packed_linear(x, weight.weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product itself. Under a name of ours, because the compiler takes oneDNN's for constant weights
    only."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a compiler must know of the result."""
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


torch.library.define("intro2llm::packed_linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.impl("intro2llm::packed_linear", "CompositeExplicitAutograd", _multiply)
torch.library.register_fake("intro2llm::packed_linear", _shape)
