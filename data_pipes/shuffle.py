"""A stateless shuffle: a permutation of range(n), evaluated one index at a time without a list of n numbers.

A pipe must know what its millionth row is without having seen the 999,999 before it, and two epochs must
differ. So the shuffle is a function of (index, n, key): nothing is stored, nothing advances, and another
epoch is another key.

Shape letters: K indices in one call.

Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002 (method 2, cycle walking); Luby and Rackoff,
"How to Construct Pseudorandom Permutations from Pseudorandom Functions", 1988 (the Feistel network).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

ROUNDS = 8
"""Feistel rounds: twice the 4 that Luby and Rackoff need with perfect round functions, as ours are cheap."""

SMALL = 1024
"""Up to this n the permutation is a sort: a Feistel network of so few bits is biased to some permutations."""

_WORD = 0xFFFFFFFF


def permute(index: np.ndarray | int, n: int, key: tuple[int, int]) -> np.ndarray:
    """Maps indices through a permutation of range(n), in O(1) time and memory per index.

    A shuffled list needs n numbers in memory and must be rebuilt to resume. A block cipher is already a
    permutation of all its inputs, so a small cipher for numbers below n gives any single entry of a shuffle.

        E(L, R): L ^= F(R, key_r) in even rounds, R ^= F(L, key_r) in odd rounds
                 a bijection of b bits, 2**b >= n
        F(x, k) = fmix32(x XOR k), truncated to the width of the half that it is XORed into
        n > 1024:   permute(i) = E(E(...E(i))), as often as needed to fall below n
        n <= 1024:  permute(i) = argsort(hash(0), ..., hash(n-1))[i]
                    hash(x) = F(...F(F(x, key_0), key_1)..., key_7), 32 bits, distinct for distinct x

    Args:
        index: [K] or a single integer, each in [0, n).
        n: size of the permutation, 1 <= n <= 2**62.
        key: two words below 2**32, see `key_words`; another key is another permutation.

    Returns:
        [K] int64 (or [] for a single index), distinct values of [0, n) for distinct indices.

    Steps:
        1. Refuse what is out of range with `_check_indices`, which returns the indices as int64.
        2. Keys of the 8 rounds, with `_round_keys`: the words of threefry2x32(key, (0, p)) are key_2p and
           key_2p+1, p = 0 to 3.
        3. For n <= 1024 (`SMALL`) sort range(n), uint32, stably by `_hash` under those keys, and index into
           the result.
        4. Otherwise take the smallest b with 2**b >= n, and `_encrypt` the flat indices, uint64, as numbers
           of b bits, split into b//2 high and b - b//2 low ones.
        5. Cycle walking: encrypt the values outside [0, n) again until they are inside. As 2**b < 2n, each
           value takes less than one extra encryption on average. Every cycle of the bijection is followed to
           its next value inside, so the result is a bijection of [0, n).
        6. Convert to int64, in the shape of `index`.

    Edge cases: n = 1 gives 0; an empty index gives an empty result.

    Raises:
        ValueError: if n is outside [1, 2**62], or an index is outside [0, n).

    Example:
        Whatever the key, each number appears once:

        >>> sorted(permute(np.arange(5), 5, (0, 7)).tolist())
        [0, 1, 2, 3, 4]
        >>> int(permute(3, 10**12, (0, 7))) == int(permute(np.array([3, 4]), 10**12, (0, 7))[0])
        True

    Source: Black and Rogaway 2002, method 2. fmix32 is the finaliser of MurmurHash3 (Appleby 2011), fast
    but no cipher: the order looks random to a training run, and hides nothing from an adversary.
    """
    # 1. Indices [K] or [].
    values = _check_indices(index, n)
    # 2. The rounds' keys, 8.
    keys = _round_keys(key)
    # 3. Sort a short range [n].
    if n <= SMALL:
        return np.argsort(_hash(np.arange(n, dtype=np.uint32), keys), kind="stable")[values]
    # 4. Encrypt each index of a long one [K].
    bits = (n - 1).bit_length()
    encrypted = _encrypt(values.reshape(-1).astype(np.uint64), bits, keys)
    # 5. Again while outside.
    while (outside := encrypted >= n).any():
        encrypted[outside] = _encrypt(encrypted[outside], bits, keys)
    # 6. The shape of the indices.
    return encrypted.astype(np.int64).reshape(values.shape)


def key_words(key: Any) -> tuple[int, int]:
    """Turns a seed or a raw key into two words, as `jax.random.key` and `pure.random.key` do.

    Args:
        key: an integer seed in [-2**31, 2**32), or two 32-bit words as a tuple, list, array or tensor ([2]
            uint32).

    Returns:
        (high, low), plain integers; a seed s gives (0, s mod 2**32).

    Raises:
        TypeError: if the key is None or another type.
        ValueError: if a seed or a word is out of range.

    Example:
        >>> key_words(-1)
        (0, 4294967295)
        >>> key_words(np.array([3, 4], np.uint32))
        (3, 4)
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        if not -(2**31) <= key < 2**32:
            raise ValueError(
                f"key_words: a seed must be in [-2**31, 2**32), got {key}; JAX would truncate it to 32 bits"
            )
        return 0, int(key) & _WORD
    words = key.tolist() if hasattr(key, "tolist") else key
    if not isinstance(words, Iterable) or isinstance(words, str | bytes):
        raise TypeError(
            f"key_words: expected a seed (an integer) or a key [2] uint32, got {key!r}; pass key=0"
        )
    pair = tuple(int(word) for word in words)
    if len(pair) != 2 or not all(0 <= word <= _WORD for word in pair):
        raise ValueError(
            f"key_words: expected two words in [0, 2**32), got {pair}; pass batched keys one at a time"
        )
    return pair[0], pair[1]


def fold_in(key: tuple[int, int], data: int) -> tuple[int, int]:
    """Derives the `data`-th key from `key`: `jax.random.fold_in`, bit for bit, on plain integers.

    Example:
        The values of `jax.random.key_data(jax.random.fold_in(jax.random.key(0), 1))`.

        >>> fold_in((0, 0), 1)
        (928981903, 3453687069)
    """
    return threefry2x32(key, (0, data & _WORD))


def fold_in_name(key: tuple[int, int], name: str) -> tuple[int, int]:
    """Derives a key from a name, so that a new consumer of randomness does not change the others' numbers.

    Example:
        >>> fold_in_name((0, 0), "shuffle") == fold_in((0, 0), zlib.crc32(b"shuffle"))
        True
    """
    return fold_in(key, zlib.crc32(name.encode()))


def threefry2x32(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Hashes two words under a key of two words: 20 rounds of add, rotate, xor, and a key injection every 4.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Threefry-2x32-20.

    Example:
        The known answer for zero key and counter in the authors' Random123.

        >>> [f"{word:08x}" for word in threefry2x32((0, 0), (0, 0))]
        ['6b200159', '99ba4efe']
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + keys[0]) & _WORD, (counter[1] + keys[1]) & _WORD
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = (x + y) & _WORD
            y = (((y << rotation) | (y >> (32 - rotation))) & _WORD) ^ x
        x, y = (x + keys[(group + 1) % 3]) & _WORD, (y + keys[(group + 2) % 3] + group + 1) & _WORD
    return x, y


def _check_indices(index: np.ndarray | int, n: int) -> np.ndarray:
    """Refuses n or an index out of range, and converts the indices to int64, in their shape."""
    if not 1 <= n <= 2**62:
        raise ValueError(f"permute: n must be between 1 and 2**62, got {n}; is the corpus empty?")
    values = np.asarray(index, dtype=np.int64)
    if values.size and (int(values.min()) < 0 or int(values.max()) >= n):
        raise ValueError(
            f"permute: every index must be in [0, {n}), got {int(values.min())} to {int(values.max())}"
        )
    return values


def _round_keys(key: tuple[int, int]) -> list[int]:
    """Derives one 32-bit key for each round, two from each Threefry call."""
    return [word for pair in range(ROUNDS // 2) for word in threefry2x32(key, (0, pair))]


def _hash(x: np.ndarray, keys: list[int]) -> np.ndarray:
    """[K] uint32 -> [K] uint32, distinct for distinct inputs: every step is a bijection."""
    for key in keys:
        x = _mix(x ^ np.uint32(key))
    return x


def _encrypt(values: np.ndarray, bits: int, keys: list[int]) -> np.ndarray:
    """[K] uint64 below 2**bits -> [K] uint64 below 2**bits, a bijection."""
    low_bits = np.uint64(bits - bits // 2)
    low_mask, high_mask = (1 << (bits - bits // 2)) - 1, (1 << (bits // 2)) - 1
    high = (values >> low_bits).astype(np.uint32)
    low = (values & np.uint64(low_mask)).astype(np.uint32)
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        high ^= _mix(low ^ np.uint32(even)) & np.uint32(high_mask)
        low ^= _mix(high ^ np.uint32(odd)) & np.uint32(low_mask)
    return (high.astype(np.uint64) << low_bits) | low


def _mix(x: np.ndarray) -> np.ndarray:
    """[K] uint32 -> [K] uint32: the finaliser of MurmurHash3; every input bit affects every output bit."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
