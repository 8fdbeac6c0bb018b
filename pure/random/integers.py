"""Random bits, integers and permutations, bit for bit those of jax.random."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure.random.keys import WORD, split
from pure.random.threefry import as_uint32, device_of, draw_elementwise, reinterpret
from pure.random.uniform import as_tensor, check_shape

MASK: Mapping[torch.dtype, int] = {
    torch.uint8: 0xFF,
    torch.uint16: 0xFFFF,
    torch.uint32: WORD,
    torch.uint64: -1,
}
"""The dtypes that `bits` draws, each with the mask of the bits that it keeps."""


def bits(
    key: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.uint32, *, offset: int | Tensor = 0
) -> Tensor:
    """Draws unsigned integers whose bits are random.

    Number i is x0 ^ x1, for (x0, x1) = hash(key, i); uint8 and uint16 are its low bits. uint64 is x0 2³² +
    x1.

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: torch.uint8, uint16, uint32 or uint64.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`.

    Raises:
        ValueError: if dtype is not an unsigned integer type.

    Example:
        >>> from pure import random
        >>> key = random.key(42)
        >>> bits(key, (2,)).tolist()
        [2098992034, 2919706841]
        >>> bits(key, (1,), offset=1).tolist()
        [2919706841]
    """
    if dtype not in MASK:
        raise ValueError(f"random.bits: dtype must be torch.uint8, uint16, uint32 or uint64, got {dtype}")
    if dtype == torch.uint64:
        return reinterpret(
            draw_elementwise(lambda x0, x1: x0.long() << 32 | x1.long() & WORD, key, shape, offset), dtype
        )
    if dtype == torch.uint32:
        return as_uint32(draw_elementwise(torch.bitwise_xor, key, shape, offset))
    return draw_elementwise(lambda x0, x1: ((x0 ^ x1) & MASK[dtype]).to(dtype), key, shape, offset)


def randint(
    key: Tensor,
    shape: Sequence[int],
    minval: int | Tensor,
    maxval: int | Tensor,
    dtype: torch.dtype = torch.int32,
) -> Tensor:
    """Draws integers from minval, minval + 1, ... maxval - 1 with equal probabilities.

    The remainder of one 32-bit word favours small results; with two words for each number the bias is
    negligible.

        minval + (h 2³² + l) mod (maxval - minval),   h and l 32-bit words from the two keys of split(key)

    Args:
        key: [2] uint32.
        shape: shape of the result.
        minval, maxval: ints or integer tensors that broadcast to `shape`, clipped to the dtype's range.
        dtype: an integer type of at most 32 bits. JAX with 64-bit types off has no int64; draw int32 and
            convert.

    Returns:
        [...] of `shape` and `dtype`.

    Steps:
        1. Convert the bounds to int64, in which only the product can overflow.
        2. The width of the range, 1 where the range is empty.
        3. The weight of the higher word: 2³² mod width, from 2¹⁶ squared.
        4. The remainder. The product is modulo 2³² (as in XLA); int64 preserves its lower bits on overflow.

    Edge cases: minval where maxval <= minval. maxval may be one above the dtype's largest value.

    Raises:
        ValueError: if dtype is not an integer type of at most 32 bits, or if the bounds are not integers or
            do not broadcast to `shape`.

    Example:
        >>> from pure import random
        >>> randint(random.key(0), (5,), 10, 20).tolist()
        [19, 10, 12, 13, 11]
    """
    if dtype.is_floating_point or dtype.is_complex or dtype.itemsize > 4 or dtype == torch.bool:
        raise ValueError(
            f"random.randint: dtype must be an integer of at most 32 bits, got {dtype}; use int32"
        )
    for x in (minval, maxval):
        if x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, float):
            raise ValueError(
                f"random.randint: bounds must be integers, got {minval} and {maxval}; use random.uniform"
            )
    # 1. Bounds.
    info = torch.iinfo(dtype)
    low = as_tensor(minval, torch.int64, device_of(key)).clamp(info.min, info.max)
    high = as_tensor(maxval, torch.int64, device_of(key)).clamp(info.min, info.max + 1)
    check_shape(shape, low, high)
    # 2. Width.
    width = (high - low).clamp(min=1)
    # 3. The weight of the higher word.
    weight = ((1 << 16) % width).square() % (1 << 32) % width
    # 4. Remainder.
    higher, lower = (
        draw_elementwise(torch.bitwise_xor, subkey, shape).long() & WORD for subkey in split(key).unbind()
    )
    return (low + ((higher % width * weight & WORD) + lower % width & WORD) % width).to(dtype)


def permutation(key: Tensor, x: int | Tensor, axis: int = 0, independent: bool = False) -> Tensor:
    """Shuffles a tensor along an axis, or the numbers 0 ... x - 1.

    Sorts by random 32-bit words. Equal words keep their order, so many numbers are sorted again with new
    words: ⌈3 ln n / ln 2³²⌉ times for n numbers.

    Args:
        key: [2] uint32.
        x: an int, or a tensor; a [] tensor of integers is an int (reading it waits for its device).
        axis: the axis whose slices are shuffled.
        independent: shuffle each line along the axis differently.

    Returns:
        [...] of the shape and dtype of `x`; for an int, int64 [x].

    Edge cases: a single number, or none, is returned unchanged.

    Raises:
        ValueError: if x is a negative int.
        TypeError: if x is neither an int nor a tensor, or a [] tensor that is not an integer.

    Example:
        >>> from pure import random
        >>> permutation(random.key(0), 5).tolist()
        [0, 1, 4, 3, 2]
    """
    if not isinstance(x, Tensor) or not x.dim():
        x = torch.arange(_count(x), device=device_of(key))
    if not independent and x.dim() > 1:
        return x.index_select(axis, permutation(key, x.shape[axis]))
    for _ in range(math.ceil(3 * math.log(max(1, x.numel())) / math.log(WORD))):
        key, sort_key = split(key).unbind()
        # The flipped sign bit gives int32 the order of uint32.
        words = draw_elementwise(torch.bitwise_xor, sort_key, x.shape) ^ -(1 << 31)
        x = x.gather(axis, words.argsort(dim=axis, stable=True))
    return x


def _count(x: Any) -> int:
    """Converts x to an int: how many numbers to shuffle."""
    try:
        count = operator.index(x)
    except TypeError:
        raise TypeError(f"random.permutation: x must be an int or a tensor with an axis, got {x!r}") from None
    if count < 0:
        raise ValueError(f"random.permutation: x must be at least 0, got {count}")
    return count
