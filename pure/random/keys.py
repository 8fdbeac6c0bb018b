"""Random keys: create one from a seed, split it, or fold in a number.

A key is the two words [2] uint32 that `jax.random.key_data` returns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pure.random.threefry import as_keys, device_of, hash_counters, key_words, threefry2x32
from pure.transform.modes import has_values

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
    word = _as_word(data, "fold_in: data").to(device_of(key))
    if key.device.type == "cpu" and has_values((key, word)):
        return _hash_in_numpy(key, word)
    return as_keys(*threefry2x32(*key_words(key), 0, word))


def clone(key: Tensor) -> Tensor:
    """Copies a key, so that a second draw of the same numbers is visibly intended.

    Args:
        key: [2] uint32.

    Returns:
        [2] uint32, equal to `key`, with storage of its own.

    Raises:
        TypeError: if it is not one raw key.
    """
    device_of(key)
    return key.clone()


def key_data(keys: Tensor) -> Tensor:
    """Returns the words of keys, which are the keys themselves: JAX's raw form.

    Here for programs written for JAX, whose typed keys hide their words.

    Args:
        keys: [..., 2] uint32.

    Returns:
        [..., 2] uint32: `keys`.

    Raises:
        TypeError: if they are not raw keys; a typed key of JAX is converted by pure.interop.jax.key_to_torch.

    Example:
        >>> key_data(key(42)).tolist()
        [0, 42]
    """
    if not isinstance(keys, Tensor) or keys.dtype != torch.uint32 or keys.shape[-1:] != (2,):
        raise TypeError(
            f"random.key_data: keys are a torch.uint32 tensor [..., 2], got {_describe(keys)}; convert keys "
            "of JAX by pure.interop.jax.key_to_torch(key)"
        )
    return keys


def wrap_key_data(key_bits_array: Any, *, impl: str | None = None) -> Tensor:
    """Makes keys from their words, such as `jax.random.key_data` gives and checkpoints hold.

    Args:
        key_bits_array: [..., 2] uint32, a tensor, or what NumPy reads as an array: one of JAX, for example.
        impl: None or "threefry2x32", the one generator.

    Returns:
        [..., 2] uint32.

    Raises:
        ValueError: for another generator.
        TypeError: if the words are of another dtype or shape.

    Example:
        >>> import numpy as np
        >>> wrap_key_data(np.array([0, 42], np.uint32)).tolist()
        [0, 42]
    """
    if impl not in (None, "threefry2x32"):
        raise ValueError(f'random.wrap_key_data: impl must be "threefry2x32", JAX\'s default, got {impl!r}')
    words = key_bits_array
    if not isinstance(words, Tensor) and hasattr(words, "__array__") and str(words.dtype) == "uint32":
        words = torch.from_numpy(np.array(words))
    if not isinstance(words, Tensor) or words.dtype != torch.uint32 or words.shape[-1:] != (2,):
        raise TypeError(
            f"random.wrap_key_data: the words of keys are uint32 [..., 2], got {_describe(words)}; for typed "
            "keys of JAX give jax.random.key_data(key), for other integers words.to(torch.uint32)"
        )
    return words


def _describe(x: Any) -> str:
    """Returns the dtype and shape of an array, or the type's name."""
    return f"{x.dtype} {list(x.shape)}" if hasattr(x, "dtype") and hasattr(x, "shape") else type(x).__name__


def _hash_in_numpy(key: Tensor, word: Tensor) -> Tensor:
    """Hashes one counter [] under a key [2] with values: 130 operations on one number take torch 1 ms."""
    numbers = (*key.view(torch.int32).tolist(), word.item())
    key0, key1, counter = (np.array([x], np.int32) for x in numbers)
    words: Any = threefry2x32(key0, key1, 0, counter)  # type: ignore[arg-type]
    return torch.from_numpy(np.concatenate(words).view(np.uint32))


def _as_word(x: Tensor, name: str) -> Tensor:
    """Converts an integer tensor [] to 32 bits (modulo 2³²), stored as int32."""
    if x.dim() or x.is_floating_point() or x.is_complex():
        raise ValueError(
            f"random.{name} must be one integer, got {x.dtype} {list(x.shape)}; for many use torch.func.vmap"
        )
    return x.to(torch.int32)
