"""NF4: a frozen matrix in four bits a number, with double quantisation, as bitsandbytes stores it.

Shape letters: O output width, I input width, K = O·I/64 blocks, S = K/256 superblocks.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, sections 2 and 3 and appendix E; the
8-bit code of the scales is Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022, section
1.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.types import Tree

BLOCK, SUPERBLOCK = 64, 256
"""Numbers that share a scale; scales that share a scale of their own."""

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen numbers of NF4: quantiles of a normal distribution, rounded as in the paper's appendix E."""


class NF4(NamedTuple):
    """A matrix [O, I] that `pure.nn.linear.linear` takes in the place of a tensor.

    Fields:
        codes: [O, I/2] uint8, two numbers a byte, the one of even column in the high half.
        scales: [K] uint8, each block's largest absolute value, as a code; or float32, that value itself.
        superscales: [S] float32, what the codes are multiplied by; None without double quantisation.
        offset: [] float32, the mean that was taken off before; None without.
    """

    codes: Tensor
    scales: Tensor
    superscales: Tensor | None = None
    offset: Tensor | None = None


def quantize(weight: Tensor, *, double: bool = True) -> NF4:
    """Stores a matrix in four bits a number.

    Weights are nearly normal, so sixteen levels that are equally likely under a normal distribution lose
    least. Every 64 numbers share a scale, so that one large number spoils 63 others at most; the scales are
    quantised in turn.

        code_i = argmin_c |w_i / s - LEVELS[c]|,     s = max |w| over the block
        double:  code'_k = argmin_c |(s_k - mean s) / s' - DYNAMIC[c]|,     s' = max |s - mean s| over the
        superblock

    Args:
        weight: [O, I], of any floating dtype; I even.
        double: quantise the scales too, which takes 0.37 bits a number less.

    Returns:
        NF4; with `double` 4.13 bits a number.

    Steps:
        1. Blocks of 64 along the rows' numbers, the last filled up with zeros, and their scales.
        2. The nearest level.
        3. Two codes a byte.
        4. The scales.

    Edge cases: a block of zeros keeps scale 0 and comes back as zeros.

    Raises:
        ValueError: if it is no matrix, I is odd, or a number is not finite.

    Example:
        >>> packed = quantize(torch.tensor([[1.0, 0.0, -1.0, 0.5]]), double=False)
        >>> packed.codes.tolist(), dequantize(packed)[0, :3].tolist()
        ([[247, 12]], [1.0, 0.0, -1.0])

    Source: Dettmers et al. 2023, equations 1 to 3 and section 3.
    """
    if weight.ndim != 2 or weight.shape[1] % 2:
        raise ValueError(
            f"nf4: expected a matrix [O, I] with I even, got {tuple(weight.shape)}; leave it as it is"
        )
    if not torch.isfinite(weight).all():
        raise ValueError(
            f"nf4: a number of the matrix {tuple(weight.shape)} is not finite; it cannot be quantised"
        )
    # 1. Blocks.
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -flat.numel() % BLOCK)).unflatten(0, (-1, BLOCK))
    scales = blocks.abs().amax(-1)
    # 2. Levels.
    relative = torch.where(scales[:, None] > 0, blocks / scales[:, None], 0.0)
    codes = _nearest(relative, torch.tensor(LEVELS, device=weight.device)).flatten()[: flat.numel()]
    # 3. Bytes.
    high, low = codes.unflatten(0, (-1, 2)).unbind(-1)
    packed = (high << 4 | low).to(torch.uint8).unflatten(0, (weight.shape[0], -1))
    # 4. Scales.
    return NF4(packed, *_quantized_scales(scales)) if double else NF4(packed, scales)


def dequantize(packed: NF4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Undoes `quantize`, as nearly as sixteen levels can.

        w_i = LEVELS[code_i] · s,     s = DYNAMIC[code'] · s' + mean

    Args:
        packed: of one matrix.
        dtype: of the result; the products are taken in float32 and rounded once.

    Returns:
        [O, I].

    Source: Dettmers et al. 2023, equation 6.
    """
    rows, bytes_a_row = packed.codes.shape
    table = _pairs(packed.codes.device)
    pairs = table.index_select(0, packed.codes.flatten().int()).view(torch.float32)  # [O·I]
    scales = block_scales(packed)
    if pairs.numel() % BLOCK:
        scaled = pairs * scales.repeat_interleave(BLOCK)[: pairs.numel()]
    else:
        scaled = (pairs.unflatten(0, (-1, BLOCK)) * scales[:, None]).flatten()
    return scaled.to(dtype).unflatten(0, (rows, 2 * bytes_a_row))


def block_scales(packed: NF4) -> Tensor:
    """Reads the scales: [K] float32."""
    if packed.superscales is None or packed.offset is None:
        return packed.scales
    code = dynamic_code(packed.codes.device)[packed.scales.int()]
    return code * packed.superscales.repeat_interleave(SUPERBLOCK)[: code.numel()] + packed.offset


def nf4_linear(weight: NF4, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiplies by the matrix, made whole for the moment of the product: see `pure.nn.linear.linear`.

    Backwards it is made once more, so that four bits a number are all that is remembered of it.
    """
    return _Product.apply(x, bias, weight.codes, weight.scales, weight.superscales, weight.offset)


def nf4_bytes(params: Tree) -> tuple[int, int]:
    """Counts the bytes of all NF4 matrices in a tree, and what they would take in bfloat16.

    Example:
        >>> nf4_bytes({"w": quantize(torch.ones(128, 128))})
        (8456, 32768)
    """
    nodes: list[NF4] = tree.nodes(NF4, params)
    took = sum(x.numel() * x.element_size() for node in nodes for x in node if x is not None)
    return took, sum(4 * node.codes.numel() for node in nodes)


def dynamic_code(device: torch.device | None = None) -> Tensor:
    """Lists the 256 numbers of the signed dynamic 8-bit code, ascending: [256] float32 in [-0.993, 1].

    A power of ten, and as many bits of fraction as it leaves: for i = 0 .. 6 the midpoints of 2^i equal parts
    of [0.1, 1], times 10^(i-6), with both signs; and 0 and 1.
    """
    found = [torch.tensor([0.0, 1.0])]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10 ** (i - 6)
        found += [middles, -middles]
    return torch.cat(found).sort().values.to(device)


def _quantized_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[K] float32 -> (codes [K] uint8, superscales [S], offset [])."""
    offset = scales.mean()
    centred = F.pad(scales - offset, (0, -scales.numel() % SUPERBLOCK)).unflatten(0, (-1, SUPERBLOCK))
    largest = centred.abs().amax(-1)
    relative = torch.where(largest[:, None] > 0, centred / largest[:, None], 0.0)
    codes = _nearest(relative, dynamic_code(scales.device)).flatten()[: scales.numel()]
    return codes.to(torch.uint8), largest, offset


def _nearest(x: Tensor, levels: Tensor) -> Tensor:
    """The index of the nearest of the ascending levels, the lower one of two equally near."""
    return torch.bucketize(x, (levels[:-1] + levels[1:]) / 2)


def _pairs(device: torch.device) -> Tensor:
    """What each byte stands for: [256] int64, whose two halves are float32 numbers."""
    levels = torch.tensor(LEVELS, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([levels[byte >> 4], levels[byte & 15]], -1).view(torch.int64)[:, 0]


class _Product(torch.autograd.Function):
    """x [..., I] -> x Wᵀ + b [..., O], that remembers the codes alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        bias: Tensor | None,
        codes: Tensor,
        scales: Tensor,
        superscales: Tensor | None,
        offset: Tensor | None,
    ) -> Tensor:
        return F.linear(x, dequantize(NF4(codes, scales, superscales, offset), x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[2:])
        ctx.biased = inputs[1] is not None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        (grad,) = grads
        codes, scales, superscales, offset = ctx.saved_tensors
        bias = grad.flatten(0, -2).sum(0) if ctx.biased and ctx.needs_input_grad[1] else None
        weight = dequantize(NF4(codes, scales, superscales, offset), grad.dtype)
        return grad @ weight, bias, None, None, None, None
