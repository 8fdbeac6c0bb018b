"""Weights in oneDNN's packed layout, which speeds up bfloat16 matrix products on a CPU.

A product of few rows, as in every decoding step, takes less time than packing its weights, so weights that
are used many times are packed once.

Shape letters: I input width, O output width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """A weight matrix that `pure.nn.linear.linear` accepts in place of a tensor.

    Fields:
        weight: [O, I] bfloat16 in oneDNN's own layout, which only its products can read; it gets no gradient.
    """

    weight: Tensor


def pack(weight: Tensor) -> Tensor | Packed:
    """Copies a matrix into the packed layout, if the CPU supports it.

    Args:
        weight: [...]; only matrices [O, I] are packed.

    Returns:
        Packed; or the weight itself, if it is not a bfloat16 matrix on a CPU with bfloat16 products.
    """
    packable = weight.ndim == 2 and weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
    if not packable or not torch.backends.mkldnn.is_available():
        return weight
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return weight
    return Packed(torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()))


def packed_linear(weight: Packed, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x Wᵀ + b; see `pure.nn.linear.linear`."""
    return torch.ops.intro2llm.packed_linear(x, weight.weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes the product in a custom operator: a compiler accepts oneDNN's with constant weights only."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _empty_result(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Allocates a result, from which a compiler reads shape and dtype."""
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


torch.library.define("intro2llm::packed_linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.impl("intro2llm::packed_linear", "CompositeExplicitAutograd", _multiply)
torch.library.register_fake("intro2llm::packed_linear", _empty_result)
