"""The matrix product: every product of a weight and its input is computed here.

Adapters and quantised weights are NamedTuples in the place of a tensor; only this file tells them apart.

Shape letters: I input width, O output width, R rank of an adapter.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Liu et al., "DoRA", 2024.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random
from pure.nn.naive import accumulation_dtype
from pure.nn.nf4 import NF4, nf4_linear
from pure.nn.packed import Packed, packed_linear
from pure.types import Tree


class LoRA(NamedTuple):
    """A frozen matrix and its low-rank update, in the place of a tensor; made by `pure.adapt.lora`.

    Fields:
        base: [O, I], or a node that stands for it, such as another adapter.
        a: [R, I].
        b: [O, R], already scaled.
        magnitude: [O], the norm of each row (DoRA); None for plain LoRA.
        squares: [O] float32, the squared norm of each row of the base; with `magnitude` only.
        key: [B, 2] uint32, for the dropout of this matrix in each example; None disables dropout.
        rate: [] dropout rate of the inputs of `a`.
    """

    base: Tree
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
    squares: Tensor | None = None
    key: Tensor | None = None
    rate: Tensor | None = None


def linear(weight: Tensor | Packed | NF4 | LoRA, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies by a weight matrix and adds a bias.

        y = x Wᵀ + b
        LoRA: y = x Wᵀ + x Aᵀ Bᵀ + b
        DoRA: y = m / ‖W + BA‖ ⊙ (x Wᵀ + x Aᵀ Bᵀ) + b, ‖·‖ of each row, without gradient

    Args:
        weight: [O, I], as torch, PEFT and bitsandbytes store it; or a node that stands for it.
        x: [..., I], same dtype; adapters and quantised weights are converted to it.
        bias: [O] or None.

    Returns:
        [..., O].

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0, 4.0])).item()
        11.0

    Source: Hu et al. 2021, equation 3; Liu et al. 2024, equations 5 and 11.
    """
    if isinstance(weight, LoRA):
        return lora_linear(weight, x, bias)
    if isinstance(weight, NF4):
        return nf4_linear(weight, x, bias)
    if isinstance(weight, Packed):
        return packed_linear(weight, x, bias)
    return _one_row_linear(weight, x, bias) if _is_one_row(x) else F.linear(x, weight, bias)


def linears(params: Tree, names: tuple[str, ...], sizes: tuple[int, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Multiplies x by several matrices: in one product, where `pure.nn.prepare` has concatenated them.

    q, k and v read the same x, as do gate and up. For one token at a time, one product of a tall matrix is
    faster than two or three of short ones, so generation concatenates them once.

        y_i = x W_iᵀ + b_i,     the same as the parts of x (W_1; W_2; ...)ᵀ + (b_1, b_2, ...)

    Args:
        params: the matrices by name, each with or without a bias: "q", "k", "q_bias", "k_bias"; or one
            matrix "q_k" and one bias "q_k_bias".
        names: ("q", "k").
        sizes: the matrices' output widths, or numbers in proportion to them.
        x: [..., I].

    Returns:
        A tuple with one [..., O] for each name.

    Steps:
        1. Look for the joint matrix: its name is the names joined by "_".
        2. If it is there, multiply once with `linear`, with its bias if there is one, and split the result
            along the last axis: part i has sizes[i] · (all outputs) / Σ sizes, an exact integer.
        3. Otherwise call `linear` for each name, with its bias if there is one.

    Edge cases: a process that shares the matrices has 1/n of the rows of each: the sizes are then n times as
    large as the parts, in proportion.

    Example:
        >>> x, two, three = torch.ones(1), torch.tensor([[2.0]]), torch.tensor([[3.0]])
        >>> linears({"q": two, "k": three}, ("q", "k"), (1, 1), x)
        (tensor([2.]), tensor([3.]))
        >>> linears({"q_k": torch.cat([two, three])}, ("q", "k"), (1, 1), x)
        (tensor([2.]), tensor([3.]))
    """
    # 1. Name of the joint matrix.
    joint = "_".join(names)
    if joint in params:
        # 2. One product, split into parts [..., O] in proportion to the sizes.
        y = linear(params[joint], x, params.get(f"{joint}_bias"))
        return y.split([size * y.shape[-1] // sum(sizes) for size in sizes], -1)
    # 3. One product for each name.
    return tuple(linear(params[name], x, params.get(f"{name}_bias")) for name in names)


def _is_one_row(x: Tensor) -> bool:
    """Checks for one row in code compiled for a CPU: a decoding step of one prompt."""
    return torch.compiler.is_compiling() and x.device.type == "cpu" and x.numel() == x.shape[-1]


def _one_row_linear(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies x [1, ..., I] -> [1, ..., O] by a multiplication and a sum, instead of a matrix product.

    With one row no weight is reused, so the loop that the compiler generates, fused with the operations
    around it, is faster than a library's matrix product.
    """
    dtype = accumulation_dtype(x.dtype)
    y = (x.to(dtype) * weight.to(dtype)).sum(-1).to(x.dtype).reshape(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


def row_norms(weight: LoRA) -> Tensor:
    """Computes the norm of each row of W + BA without materialising that matrix.

    DoRA divides by these norms in every forward pass. W + BA has O·I entries, and the base may be quantised;
    A Wᵀ and A Aᵀ have R·O and R·R. The squared norms of the base are computed once, when the node is made.

        ‖w + b A‖² = ‖w‖² + 2 b · (A w) + b (A Aᵀ) bᵀ

    with w, b the rows of W = weight.base and B = weight.b, A = weight.a, ‖w‖² = weight.squares.

    Args:
        weight: a node with `squares`.

    Returns:
        [O], in the `accumulation_dtype` of `weight.a` (float32, or float64 for float64), positive. Without a
        gradient for a and b: DoRA treats the norm as a constant.

    Steps:
        1. Detach a and b, and convert both to the accumulation dtype.
        2. A Wᵀ [R, O] with `linear`, since the base may be a node; a base that is a tensor is converted to
           the same dtype before.
        3. The three terms of each row: [O].
        4. The root, of at least the smallest positive normal float32.

    Edge cases: a row of zeros has a norm of about 1e-19, so that it can be divided by.

    Example:
        (3, 0) plus 4 · (0, 1) is (3, 4):

        >>> base, a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[4.0]])
        >>> row_norms(LoRA(base, a, b, squares=torch.tensor([9.0])))
        tensor([5.])

    Source: Liu et al. 2024, equations 5 and 11. Differs from it: the norm is expanded.
    """
    # 1. A [R, I] and B [O, R], without gradient.
    dtype = accumulation_dtype(weight.a.dtype)
    a, b = weight.a.detach().to(dtype), weight.b.detach().to(dtype)
    # 2. A Wᵀ [R, O].
    base = weight.base.to(a.dtype) if isinstance(weight.base, Tensor) else weight.base
    a_w = linear(base, a)
    # 3. Squared norms [O].
    assert weight.squares is not None, "a node with a magnitude has the base's squares"
    squares = weight.squares + 2 * (b * a_w.T).sum(-1) + ((b @ (a @ a.T)) * b).sum(-1)
    # 4. Norms [O].
    return squares.clamp(min=torch.finfo(torch.float32).tiny).sqrt()


def lora_linear(weight: LoRA, x: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies by a frozen matrix and its low-rank update, without making their sum.

    W + BA has O·I entries; x Aᵀ has R columns, so the update costs R (O + I) products a row, and gradients
    and optimizer states exist for A and B only.

        y = x Wᵀ + drop(x) Aᵀ Bᵀ + bias
        DoRA: y = g ⊙ (x Wᵀ + drop(x) Aᵀ Bᵀ) + bias,     g = magnitude / ‖W + BA‖ of each row

    with W = weight.base, A = weight.a, B = weight.b.

    Args:
        weight: the node; its base is [O, I], or a node.
        x: [..., I]; with dropout [B, T, I].
        bias: [O] or None.

    Returns:
        [..., O], dtype of x.

    Steps:
        1. Convert A [R, I] and B [O, R] to the dtype of x.
        2. The update: x through `_apply_dropout`, times Aᵀ, [..., R], then times Bᵀ, [..., O].
        3. Without a magnitude: add it to the base's product, x without dropout, with the bias, by `linear`,
           which takes nodes too.
        4. With a magnitude: g [O], the magnitude over `row_norms`, converted to the dtype of x; multiply the
           base's product plus the update by g, and add the bias, which is not scaled.

    Edge cases: B = 0, as adapters are initialised, gives the base's product.

    Example:
        The base gives 1 · 3 + 2 · 4 = 11, the update 10 · (1 · 3) = 30:

        >>> base, a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0]])
        >>> lora_linear(LoRA(base, a, b), torch.tensor([3.0, 4.0]), None)
        tensor([41.])

    Source: Hu et al. 2021, equation 3; Liu et al. 2024, equation 5.
    """
    # 1. A [R, I] and B [O, R].
    a, b = weight.a.to(x.dtype), weight.b.to(x.dtype)
    # 2. The update [..., O].
    update = F.linear(F.linear(_apply_dropout(weight, x), a), b)
    # 3. Plain LoRA.
    if weight.magnitude is None:
        return linear(weight.base, x, bias) + update
    # 4. DoRA: gain [O], then the bias.
    gain = (weight.magnitude / row_norms(weight)).to(x.dtype)
    y = gain * (linear(weight.base, x) + update)
    return y if bias is None else y + bias


def _apply_dropout(weight: LoRA, x: Tensor) -> Tensor:
    """Applies dropout to x [B, T, I], if the node has a key."""
    if weight.key is None or weight.rate is None:
        return x
    uniform = torch.func.vmap(lambda key: random.uniform(key, tuple(x.shape[1:])))(weight.key)
    return torch.where(uniform >= weight.rate, x / (1 - weight.rate).to(x.dtype), torch.zeros_like(x))
