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

    Args:
        weight: [O, I], of any floating dtype; I even.
        double: quantise the scales too, which saves 0.37 bits per weight.

    Returns:
        NF4; with `double` 4.13 bits per weight. Without: scales [K] float32, and None for the rest.

    Steps:
        1. Refuse what cannot be quantised with `_check_matrix`.
        2. Flatten the matrix, [O·I] float32 without gradient, pad it with zeros to whole blocks, [K, 64] (a
           block may run over the end of a row), and compute each block's scale, [K].
        3. Divide by the scales (0 where the scale is 0), find the code of each weight with `find_nearest`
           among `LEVELS`, and drop the padding: [O·I].
        4. Pack two codes in a byte, the first in the high half: [O, I/2] uint8.
        5. With `double`, quantise the scales with `quantize_scales`.

    Edge cases: a block of zeros has scale 0 and is dequantised to zeros.

    Raises:
        ValueError: if weight is not a matrix, I is odd, or a weight is not finite.

    Example:
        >>> packed = quantize(torch.tensor([[1.0, 0.0, -1.0, 0.5]]), double=False)
        >>> packed.codes.tolist(), dequantize(packed)[0, :3].tolist()
        ([[247, 12]], [1.0, 0.0, -1.0])

    Source: Dettmers et al. 2023, equations 1 to 3 and section 3.
    """
    # 1. Check.
    _check_matrix(weight)
    # 2. Blocks [K, 64] and scales [K].
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -flat.numel() % BLOCK)).unflatten(0, (-1, BLOCK))
    scales = blocks.abs().amax(-1)
    # 3. Codes [O·I].
    relative = torch.where(scales[:, None] > 0, blocks / scales[:, None], 0.0)
    codes = find_nearest(relative, torch.tensor(LEVELS, device=weight.device)).flatten()[: flat.numel()]
    # 4. Bytes [O, I/2].
    high, low = codes.unflatten(0, (-1, 2)).unbind(-1)
    packed = (high << 4 | low).to(torch.uint8).unflatten(0, (weight.shape[0], -1))
    # 5. Scales.
    return NF4(packed, *quantize_scales(scales)) if double else NF4(packed, scales)


def dequantize(packed: NF4, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverts `quantize`, up to the quantisation error.

    The matrix exists only for the length of one product; in memory are the codes.

        w_i = LEVELS[code_i] · s,     s the scale of the block of w_i

    Args:
        packed: a quantised matrix.
        dtype: of the result; the products are computed in float32 and rounded once.

    Returns:
        [O, I], `dtype`.

    Steps:
        1. Look up the levels of all codes, two per byte, the high half first: [O·I] float32. `_look_up` in
           the `_byte_table` does it for flat bytes as int32.
        2. The scales of the blocks, [K], with `block_scales`.
        3. Multiply each block of 64 consecutive weights by its scale, [O·I]; the last block may be shorter.
        4. Convert to `dtype`, and restore the rows.

    Edge cases: a block with scale 0 gives zeros.

    Example:
        All but the last are levels of NF4; that of 0.5 is 0.4407.

        >>> dequantize(quantize(torch.tensor([[1.0, 0.0, -1.0, 0.5]]), double=False))
        tensor([[ 1.0000,  0.0000, -1.0000,  0.4407]])

    Source: Dettmers et al. 2023, equation 6.
    """
    # 1. Levels [O·I].
    rows, bytes_per_row = packed.codes.shape
    pairs = _look_up(_byte_table(packed.codes.device), packed.codes.flatten().int())
    # 2. Scales [K].
    scales = block_scales(packed)
    # 3. Levels times scales [O·I].
    if pairs.numel() % BLOCK:
        scaled = pairs * scales.repeat_interleave(BLOCK)[: pairs.numel()]
    else:
        scaled = (pairs.unflatten(0, (-1, BLOCK)) * scales[:, None]).flatten()
    # 4. [O, I].
    return scaled.to(dtype).unflatten(0, (rows, 2 * bytes_per_row))


def block_scales(packed: NF4) -> Tensor:
    """Dequantises the scales of the blocks; inverts `quantize_scales`, up to the quantisation error.

        s_k = DYNAMIC[code_k] · s'_j + offset,     j = floor(k / 256)

    with code = packed.scales, s' = packed.superscales, DYNAMIC = `dynamic_code()`.

    Args:
        packed: a quantised matrix.

    Returns:
        [K] float32.

    Steps:
        1. Without double quantisation (superscales or offset None) the scales are the result.
        2. Look up the codes in `dynamic_code`: [K] float32.
        3. Multiply each by the superscale of its superblock of 256 (the last may be shorter), and add the
           offset.

    Edge cases: where the superscale is 0 the scale is the offset.

    Example:
        The last value of the dynamic code is 1, so the scale is 1 · 2 + 3.

        >>> codes, scales = torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([255], dtype=torch.uint8)
        >>> block_scales(NF4(codes, scales, superscales=torch.tensor([2.0]), offset=torch.tensor(3.0)))
        tensor([5.])

    Source: Dettmers et al. 2023, section 3, double quantisation.
    """
    # 1. Scales that are not quantised.
    if packed.superscales is None or packed.offset is None:
        return packed.scales
    # 2. Values of the codes [K].
    code = dynamic_code(packed.codes.device)[packed.scales.int()]
    # 3. Scaled and shifted [K].
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
    """Lists the 256 values of the signed dynamic 8-bit code.

    Scales of blocks differ by orders of magnitude. Like a float, this code has an exponent; unlike a float,
    small exponents have fewer digits, so that no value is wasted.

        for i = 0 .. 6: ± the midpoints of 2^i equal parts of [0.1, 1], times 10^(i-6); and 0 and 1

    Args:
        device: of the result.

    Returns:
        [256] float32, ascending, in [-0.993, 1].

    Steps:
        1. Begin with 0 and 1.
        2. For i = 0 .. 6: the 2^i + 1 edges of the parts, with `torch.linspace` in float32; the midpoints
           (left + right) / 2 · 10^(i-6), 2^i of them, and their negatives.
        3. Concatenate the 2 + 2 (1 + 2 + ... + 64) = 256 values, and sort them.

    Edge cases: -1 is not a value; the lowest is -(1 - 0.9/128) = -0.993. So the code has 128 positive values,
    0, and 127 negative ones.

    Example:
        For i = 0 the one midpoint is 0.55, so the smallest positive value is 0.55e-6.

        >>> code = dynamic_code()
        >>> code[127], code[128], code[255]
        (tensor(0.), tensor(5.5000e-07), tensor(1.))

    Source: Dettmers et al. 2022, section 1.3.
    """
    # 1. 0 and 1.
    values = [torch.tensor([0.0, 1.0])]
    # 2. Midpoints [2^i], with both signs.
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)
        middles = (edges[:-1] + edges[1:]) / 2 * 10 ** (i - 6)
        values += [middles, -middles]
    # 3. Sorted [256].
    return torch.cat(values).sort().values.to(device)


def quantize_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantises the scales of blocks to 8 bits: the second quantisation of "double quantisation".

    One float32 for 64 weights is half a bit per weight; 8 bits and a float32 for 256 scales are 0.13.
    Scales are positive; without their mean both halves of the signed code are used.

        code_k = argmin_c |(s_k - offset) / s' - DYNAMIC[c]|
        s' = max |s - offset| over the superblock,     offset = mean s,     DYNAMIC = `dynamic_code()`

    with s = scales.

    Args:
        scales: [K] float32.

    Returns:
        (codes [K] uint8, superscales s' [S] float32, offset [] float32).

    Steps:
        1. The mean of all scales, [], is the offset; subtract it.
        2. Pad the differences with zeros to whole superblocks, [S, 256]; the superscale of each is its
           largest absolute value, [S].
        3. Divide by the superscales (0 where it is 0), find the codes with `find_nearest` among
           `dynamic_code`, and drop the padding: [K].

    Edge cases: equal scales have superscale 0 and the code of 0.

    Example:
        Around the mean 2 both differences are 1, the superscale; -1 has the lowest code, 1 the highest.

        >>> quantize_scales(torch.tensor([1.0, 3.0]))
        (tensor([  0, 255], dtype=torch.uint8), tensor([1.]), tensor(2.))

    Source: Dettmers et al. 2023, section 3, double quantisation.
    """
    # 1. Offset [], differences [K].
    offset = scales.mean()
    differences = scales - offset
    # 2. Superblocks [S, 256] and superscales [S].
    centred = F.pad(differences, (0, -scales.numel() % SUPERBLOCK)).unflatten(0, (-1, SUPERBLOCK))
    largest = centred.abs().amax(-1)
    # 3. Codes [K].
    relative = torch.where(largest[:, None] > 0, centred / largest[:, None], 0.0)
    codes = find_nearest(relative, dynamic_code(scales.device)).flatten()[: scales.numel()]
    return codes.to(torch.uint8), largest, offset


def find_nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Finds the index of the level nearest to each value.

    Comparing each value with all levels takes n times the memory of x. Levels are sorted, so the midpoints
    between neighbours bound the values that belong to each, and a binary search finds the index.

        argmin_c |x - levels[c]| = number of midpoints below x

    Args:
        x: [...] float.
        levels: [n] float, ascending.

    Returns:
        [...] int64, in 0 .. n-1.

    Steps:
        1. The midpoints (left + right) / 2 of neighbouring levels: [n-1].
        2. For each value, the number of midpoints below it, with `torch.bucketize`.

    Edge cases: of two equally near levels the lower. Values outside the levels get the first or the last.

    Example:
        The one midpoint is 0.5:

        >>> find_nearest(torch.tensor([0.4, 0.5, 0.6, 7.0]), torch.tensor([0.0, 1.0]))
        tensor([0, 0, 1, 1])
    """
    # 1. Midpoints [n-1].
    midpoints = (levels[:-1] + levels[1:]) / 2
    # 2. The number of midpoints below each value [...].
    return torch.bucketize(x, midpoints)


def _check_matrix(weight: Tensor) -> None:
    """Refuses a weight that is not [O, I] with I even, or not finite."""
    if weight.ndim != 2 or weight.shape[1] % 2:
        raise ValueError(
            f"nf4: expected a matrix [O, I] with I even, got {tuple(weight.shape)}; leave it unquantised"
        )
    if not torch.isfinite(weight).all():
        raise ValueError(
            f"nf4: the matrix {tuple(weight.shape)} has a weight that is not finite; check the checkpoint"
        )


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
