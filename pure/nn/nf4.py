"""NF4: a frozen matrix in four bits per weight, with double quantisation, stored as bitsandbytes does.

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
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pure import tree
from pure.transform.modes import is_forward_mode
from pure.types import Tree

BLOCK, SUPERBLOCK = 64, 256
"""Number of weights that share a scale, and of scales that share a superscale."""

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The sixteen levels of NF4: quantiles of a normal distribution, rounded as in the paper's appendix E."""


class NF4(NamedTuple):
    """A matrix [O, I] that `pure.nn.linear.linear` accepts in place of a tensor.

    Fields:
        codes: [O, I/2] uint8, two weights per byte, that of the even column in the high half.
        scales: [K], each block's largest absolute value: uint8 codes, or float32 without double quantisation.
        superscales: [S] float32, the factors of the scales' codes; None without double quantisation.
        offset: [] float32, the mean of the scales, subtracted before they are quantised; None without double
            quantisation.
    """

    codes: Tensor
    scales: Tensor
    superscales: Tensor | None = None
    offset: Tensor | None = None


def quantize(weight: Tensor, *, double: bool = True) -> NF4:
    """Quantises a matrix to four bits per weight.

    Weights are nearly normal, so sixteen levels that are equally likely under a normal distribution lose the
    least precision. Blocks of 64 weights share a scale, so an outlier affects only 63 others; the scales are
    quantised in turn.

        code_i = argmin_c |w_i / s - LEVELS[c]|,     s = max |w| over the block
        double:  code'_k = argmin_c |(s_k - mean s) / s' - DYNAMIC[c]|
                 s' = max |s - mean s| over the superblock,     DYNAMIC = dynamic_code()

    Args:
        weight: [O, I], of any floating dtype; I even.
        double: quantise the scales too, which saves 0.37 bits per weight.

    Returns:
        NF4; with `double` 4.13 bits per weight.

    Steps:
        1. Split the rows into blocks of 64, the last padded with zeros, and compute their scales.
        2. Find the nearest level of each weight.
        3. Pack two codes in a byte.
        4. Quantise the scales.

    Edge cases: a block of zeros has scale 0 and is dequantised to zeros.

    Raises:
        ValueError: if weight is not a matrix, I is odd, or a weight is not finite.

    Example:
        >>> packed = quantize(torch.tensor([[1.0, 0.0, -1.0, 0.5]]), double=False)
        >>> packed.codes.tolist(), dequantize(packed)[0, :3].tolist()
        ([[247, 12]], [1.0, 0.0, -1.0])

    Source: Dettmers et al. 2023, equations 1 to 3 and section 3.
    """
    if weight.ndim != 2 or weight.shape[1] % 2:
        raise ValueError(
            f"nf4: expected a matrix [O, I] with I even, got {tuple(weight.shape)}; leave it unquantised"
        )
    if not torch.isfinite(weight).all():
        raise ValueError(
            f"nf4: the matrix {tuple(weight.shape)} has a weight that is not finite; check the checkpoint"
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
    """Inverts `quantize`, up to the quantisation error.

        w_i = LEVELS[code_i] · s,     s = DYNAMIC[code'] · s' + mean

    Args:
        packed: a quantised matrix.
        dtype: of the result; the products are computed in float32 and rounded once.

    Returns:
        [O, I].

    Source: Dettmers et al. 2023, equation 6.
    """
    rows, bytes_per_row = packed.codes.shape
    pairs = _look_up(_byte_table(packed.codes.device), packed.codes.flatten().int())  # [O·I]
    scales = block_scales(packed)
    if pairs.numel() % BLOCK:
        scaled = pairs * scales.repeat_interleave(BLOCK)[: pairs.numel()]
    else:
        scaled = (pairs.unflatten(0, (-1, BLOCK)) * scales[:, None]).flatten()
    return scaled.to(dtype).unflatten(0, (rows, 2 * bytes_per_row))


def block_scales(packed: NF4) -> Tensor:
    """Dequantises the scales: [K] float32."""
    if packed.superscales is None or packed.offset is None:
        return packed.scales
    code = dynamic_code(packed.codes.device)[packed.scales.int()]
    return code * packed.superscales.repeat_interleave(SUPERBLOCK)[: code.numel()] + packed.offset


def nf4_linear(weight: NF4, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes x Wᵀ + b, with W dequantised for this product only; see `pure.nn.linear.linear`.

    The backward pass dequantises W again, so only the codes are saved.
    """
    if is_forward_mode():
        return F.linear(x, dequantize(weight, x.dtype), bias)
    return _Product.apply(x, bias, weight.codes, weight.scales, weight.superscales, weight.offset)


def nf4_bytes(params: Tree) -> tuple[int, int]:
    """Counts the bytes of all NF4 matrices in a tree, and of the same matrices in bfloat16.

    Example:
        >>> nf4_bytes({"w": quantize(torch.ones(128, 128))})
        (8456, 32768)
    """
    nodes: list[NF4] = tree.nodes(NF4, params)
    quantized = sum(x.numel() * x.element_size() for node in nodes for x in node if x is not None)
    return quantized, sum(4 * node.codes.numel() for node in nodes)


def dynamic_code(device: torch.device | None = None) -> Tensor:
    """Lists the 256 values of the signed dynamic 8-bit code, ascending: [256] float32 in [-0.993, 1].

    For i = 0 .. 6 the midpoints of 2^i equal parts of [0.1, 1], times 10^(i-6), with both signs; and 0 and 1.
    """
    values = [torch.tensor([0.0, 1.0])]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10 ** (i - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values.to(device)


def _quantized_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[K] float32 -> (codes [K] uint8, superscales [S], offset [])."""
    offset = scales.mean()
    centred = F.pad(scales - offset, (0, -scales.numel() % SUPERBLOCK)).unflatten(0, (-1, SUPERBLOCK))
    largest = centred.abs().amax(-1)
    relative = torch.where(largest[:, None] > 0, centred / largest[:, None], 0.0)
    codes = _nearest(relative, dynamic_code(scales.device)).flatten()[: scales.numel()]
    return codes.to(torch.uint8), largest, offset


def _nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Finds the index of the nearest of the ascending levels; of two equally near, the lower."""
    return torch.bucketize(x, (levels[:-1] + levels[1:]) / 2)


def _byte_table(device: torch.device) -> Tensor:
    """Tabulates the two levels of each byte: [256, 2] float32."""
    levels = torch.tensor(LEVELS, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([levels[byte >> 4], levels[byte & 15]], -1)


def _look_up(table: Tensor, bytes_: Tensor) -> Tensor:
    """Looks up the levels of bytes [n]: [2 n] float32.

    Two float32 are moved as one int64, many times faster than as a row of two. JAX has no int64 by default,
    so a tracer gets the rows.
    """
    if not torch.compiler.is_compiling() and get_proxy_mode() is not None:
        return table.index_select(0, bytes_).flatten()
    return table.view(torch.int64)[:, 0].index_select(0, bytes_).view(torch.float32)


class _Product(torch.autograd.Function):
    """Computes x [..., I] -> x Wᵀ + b [..., O]; saves only the codes."""

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
        ctx.has_bias = inputs[1] is not None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        (grad,) = grads
        codes, scales, superscales, offset = ctx.saved_tensors
        bias = None
        if ctx.has_bias and ctx.needs_input_grad[1]:
            bias = grad.flatten(0, -2).sum(0)
        weight = dequantize(NF4(codes, scales, superscales, offset), grad.dtype)
        return grad @ weight, bias, None, None, None, None
