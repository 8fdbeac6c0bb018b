"""Random keys: create one from a seed, split it, or fold in a number.

A key is the two words [2] uint32 that `jax.random.key_data` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor

from pure.random.threefry import as_keys, device_of, hash_counters, key_words, threefry2x32

WORD = 0xFFFFFFFF


def key(seed: int | Tensor, *, device: torch.device | str | None = None) -> Tensor:
    """Makes a key from a seed: [0, seed mod 2³²], as JAX does with 64-bit types off.

    Args:
        seed: an int of at most 64 bits, or an integer tensor [] (then `vmap(key)(seeds)` makes many).
        device: of the key and everything drawn from it; by default torch's own, or the seed's.

    Returns:
        [2] uint32.

    Raises:
        ValueError: if the seed does not fit in 64 bits, or is a tensor of another kind.

    Example:
        >>> key(-1).tolist()
        [0, 4294967295]
    """
    if not isinstance(seed, Tensor):
        if not -(1 << 63) <= index(seed) < 1 << 63:
            raise ValueError(f"random.key: a seed has at most 64 bits, got {seed}; take it modulo 2**32")
        seed = torch.full((), index(seed), dtype=torch.int64, device=device)
    low = _as_word(seed, "key: the seed").to(device=device)
    return as_keys(torch.zeros_like(low), low)


def split(key: Tensor, num: int | Sequence[int] = 2) -> Tensor:
    """Makes new keys that are independent of each other and of the old one.

    New key i is hash(key, i), and so is `fold_in(key, i)`: use `split` for a number of keys, `fold_in` for a
    step or an index.

    Args:
        key: [2] uint32; not to be used again.
        num: number of keys, or a shape of them, >= 0.

    Returns:
        [..., 2] uint32, with leading axes of shape `num`.

    Raises:
        ValueError: if num is negative.

    Example:
        >>> from pure import random
        >>> split(random.key(0)).tolist()
        [[1797259609, 2579123966], [928981903, 3453687069]]
    """
    shape = (num,) if isinstance(num, int) else tuple(num)
    if any(n < 0 for n in shape):
        raise ValueError(f"random.split: num must be at least 0, got {num}")
    x0, x1 = hash_counters(key, 0, math.prod(shape))
    return as_keys(x0, x1).reshape(*shape, 2)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """Makes the new key hash(key, data), where data is a step, a row or a position.

    Args:
        key: [2] uint32.
        data: an int in [0, 2³²), or an integer tensor [], taken modulo 2³².

    Returns:
        [2] uint32.

    Raises:
        ValueError: if data is an int out of range, or a tensor of another kind.

    Example:
        >>> from pure import random
        >>> fold_in(random.key(0), 1).tolist() == split(random.key(0), 5)[1].tolist()
        True
    """
    if not isinstance(data, Tensor):
        if not 0 <= index(data) <= WORD:
            raise ValueError(f"random.fold_in: data must be in [0, 2**32), got {data}; take it modulo 2**32")
        data = torch.full((), index(data), dtype=torch.int64, device=device_of(key))
    return as_keys(*threefry2x32(*key_words(key), 0, _as_word(data, "fold_in: data").to(device_of(key))))


def _as_word(x: Tensor, name: str) -> Tensor:
    """Converts an integer tensor [] to 32 bits (modulo 2³²), stored as int32."""
    if x.dim() or x.is_floating_point() or x.is_complex():
        raise ValueError(
            f"random.{name} must be one integer, got {x.dtype} {list(x.shape)}; for many use torch.func.vmap"
        )
    return x.to(torch.int32)
