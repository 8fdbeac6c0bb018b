"""Threefry-2x32: the hash of every random number of `pure.random`, and its counters.

A counter-based generator has no state: number i of a key is `hash(key, i)`. So numbers can be drawn in any
order, in parts and on many devices, and each is a pure function of (key, i). The layout of keys, counters and
results is JAX's ("partitionable" threefry), so that both frameworks draw the same bits.

Words are 32 bits. PyTorch stores uint32 but has no arithmetic on it, so words are computed as int32, whose
additions wrap in the same way; only a right shift must be masked, because it copies the sign bit of int32.

Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011 (Threefry, 20 rounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

HASH: ContextVar[Callable | None] = ContextVar("threefry2x32", default=None)
"""Takes the place of `threefry2x32`: a tracer records one operator (`pure/interop/jax/hashing.py`)."""

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
BLOCK: Mapping[str, int] = {"cpu": 1 << 17, "cuda": 1 << 24}
"""Numbers drawn at once in eager mode. On a CPU they fit in its cache: the 130 operations of a hash then run
four times as fast as over one long array."""


def threefry2x32(key0: Tensor, key1: Tensor, x0: Tensor | int, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Hashes a 64-bit counter (x0, x1) under a 64-bit key (key0, key1): Threefry-2x32 with 20 rounds.

    Two counters that differ in one bit give unrelated results, which is all that random numbers need.

        a round:  x0 += x1;  x1 = rotate_left(x1, r) ^ x0
        injection after every four rounds i = 1..5:  x0 += ks[i mod 3];  x1 += ks[(i + 1) mod 3] + i
        where ks = (key0, key1, key0 ^ key1 ^ 0x1BD11BDA), and all additions wrap at 2³²

    Args:
        key0, key1: int32, any shapes that broadcast with the counter; the bits of the key's two uint32 words.
        x0, x1: int32, high and low word of the counter (x0 may be a plain 0).

    Returns:
        Two int32 tensors of the broadcast shape: the bits of the two uint32 results.

    Steps:
        1. If a tracer has set `HASH`, and torch is not compiling (`torch.compiler.is_compiling()`), return
            what it returns for the same four arguments.
        2. Compute the key schedule ks of three words (0x1BD11BDA is `PARITY`); add its first word to x0, its
            second to x1.
        3. Five times: four rounds, with the rotations 13, 15, 26, 6 in the first, third and fifth group,
            17, 29, 16, 24 in the others (`ROTATIONS`), by `_rotate_left`.
        4. After each group i = 1..5, inject the key: two words of the schedule, and i.

    Edge cases: `fold_in` of one key passes NumPy arrays of int32, so only the operators + and ^ are used on
    the words, and no argument is changed in place.

    Example:
        The authors' test vector for a zero key and a zero counter is 6b200159 99ba4efe.

        >>> zero = torch.zeros((), dtype=torch.int32)
        >>> [f"{x.item() & 0xFFFFFFFF:08x}" for x in threefry2x32(zero, zero, zero, zero)]
        ['6b200159', '99ba4efe']

    Source: Salmon et al. 2011, section 3.3 and the known-answer vectors of their Random123 library.
    """
    # 1. The function of a tracer, if one is set.
    replacement = None if torch.compiler.is_compiling() else HASH.get()
    if replacement is not None:
        return replacement(key0, key1, x0, x1)
    # 2. Key schedule of three words; the first two are added to the counter.
    schedule = (key0, key1, key0 ^ key1 ^ PARITY)
    x0, x1 = x0 + key0, x1 + key1
    for i in range(5):
        # 3. Four rounds.
        for r in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, r) ^ x0
        # 4. Injection of the key.
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + (schedule[(i + 2) % 3] + (i + 1))
    return x0, x1


def hash_counters(key: Tensor, start: int | Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Hashes the counters start, start + 1, ... start + size - 1.

    Args:
        key: [2] uint32.
        start: first counter, >= 0; an int, or a 0-d int64 tensor (so that one compiled function serves any
            start).
        size: how many.

    Returns:
        Two int32 tensors [size]: both words of each result.

    Example:
        The result of a counter does not depend on the first counter.

        >>> key = torch.tensor([0, 42], dtype=torch.uint32)
        >>> torch.equal(hash_counters(key, 3, 2)[0], hash_counters(key, 0, 5)[0][3:])
        True
    """
    (key0, key1), device = key_words(key), device_of(key)
    if isinstance(start, int) and start + size <= 1 << 32:
        return threefry2x32(key0, key1, 0, torch.arange(start, start + size, device=device).to(torch.int32))
    counter = torch.arange(size, device=device) + start
    return threefry2x32(key0, key1, (counter >> 32).to(torch.int32), counter.to(torch.int32))


def draw_elementwise(
    function: Callable[[Tensor, Tensor], Tensor], key: Tensor, shape: Sequence[int], offset: int | Tensor = 0
) -> Tensor:
    """Applies an elementwise function to the words of the counters offset, offset + 1, ... of a shape.

    Eager mode works block by block (see BLOCK): half a billion numbers then take the memory of the result and
    a few megabytes. Under torch.compile it is one expression, which becomes one loop.

    Args:
        function: (int32 [n], int32 [n]) -> [n] of any dtype; element i depends only on the words i.
        key: [2] uint32.
        shape: of the result.
        offset: counter of the first number, an int or a 0-d int64 tensor.

    Returns:
        [...] of `shape`, on the key's device.

    Raises:
        TypeError: if shape is an int.
        ValueError: if a length or the offset is negative.
    """
    if isinstance(shape, int):
        raise TypeError(f"random: shape must be a tuple, got {shape}; write ({shape},)")
    if any(length < 0 for length in shape):
        raise ValueError(f"random: shape must have lengths of at least 0, got {tuple(shape)}")
    if isinstance(offset, int) and offset < 0:
        raise ValueError(f"random: offset must be at least 0, got {offset}")
    size, block = math.prod(shape), BLOCK.get(device_of(key).type, 1 << 20)
    if size <= block or torch.compiler.is_compiling():
        return function(*hash_counters(key, offset, size)).reshape(tuple(shape))
    first = function(*hash_counters(key, offset, block))
    out = first.new_empty(size)
    out[:block] = first
    for start in range(block, size, block):
        stop = min(start + block, size)
        out[start:stop] = function(*hash_counters(key, offset + start, stop - start))
    return out.reshape(tuple(shape))


def key_words(key: Tensor) -> tuple[Tensor, Tensor]:
    """Splits a key into its two words, 0-d int32."""
    device_of(key)  # raises for anything but one key
    key0, key1 = reinterpret(key, torch.int32).unbind()
    return key0, key1


def device_of(key: Tensor) -> torch.device:
    """Returns the device of a key and of the numbers drawn from it; refuses anything but one key.

    Raises:
        TypeError: if it is not one raw key.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.uint32 or key.shape != (2,):
        got = f"{key.dtype} {list(key.shape)}" if isinstance(key, Tensor) else type(key).__name__
        raise TypeError(
            f"random: a key is a torch.uint32 tensor [2], got {got}; make one with random.key(seed), or draw "
            "from many keys [n, 2] at once with torch.func.vmap"
        )
    return key.device


def as_keys(x0: Tensor, x1: Tensor) -> Tensor:
    """Makes keys from two results of the hash: int32 [...] and [...] -> uint32 [..., 2]."""
    return reinterpret(torch.stack([x0, x1], dim=-1), torch.uint32)


def as_uint32(x: Tensor) -> Tensor:
    """Reinterprets int32 as uint32: the same bits."""
    return reinterpret(x, torch.uint32)


def reinterpret(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Reinterprets integers as others of the same width: the same bits.

    For Inductor on a CPU, the view goes through uint8. Inductor has no vector code for uint32: one uint32
    input or output makes its whole loop scalar, three times slower, but a view of another width is outside
    the loop. Under vmap the numbers are converted, which preserves the bits too: torch 2.11 has no batching
    rule for a view of another dtype.
    """
    if torch._C._are_functorch_transforms_active():
        return x.to(dtype)
    if x.dim() and x.device.type == "cpu" and torch.compiler.is_compiling():
        return x.contiguous().view(torch.uint8).view(dtype)
    return x.view(dtype)


def _rotate_left(x: Tensor, r: int) -> Tensor:
    """Rotates the 32 bits of int32 `x` by r, 0 < r < 32."""
    x = _materialize(x)
    return (x << r) | ((x >> (32 - r)) & ((1 << r) - 1))


def _materialize(x: Tensor) -> Tensor:
    """Returns x, and makes Inductor store it in a buffer.

    Inductor inlines an expression of up to 30 operations wherever it is used: a hash grows to 20,000
    operations before common subexpressions reduce it to 250, and compiling takes twice as long. The input of
    `as_strided` gets a buffer, which is fused away.
    """
    return x.as_strided(x.shape, x.stride()) if torch.compiler.is_compiling() and x.dim() else x
