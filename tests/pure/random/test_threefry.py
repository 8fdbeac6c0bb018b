"""`pure.random.threefry`: the hash against its authors' test vectors and a version in Python integers; its
counters, and the keys that it accepts."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from pure.random.keys import key
from pure.random.threefry import (
    BLOCK,
    HASH,
    as_keys,
    as_uint32,
    device_of,
    draw_elementwise,
    hash_counters,
    key_words,
    threefry2x32,
)

VECTORS = {  # Random123's known answers for threefry2x32, 20 rounds: counter, key, result
    "zeros": ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    "ones": ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    "pi": ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
}


def naive_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 in plain integers."""
    schedule = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x0, x1 = (counter[0] + key[0]) % 2**32, (counter[1] + key[1]) % 2**32
    for round in range(20):
        r = (13, 15, 26, 6, 17, 29, 16, 24)[round % 8]
        x0 = (x0 + x1) % 2**32
        x1 = ((x1 << r | x1 >> (32 - r)) % 2**32) ^ x0
        if round % 4 == 3:
            i = round // 4 + 1
            x0, x1 = (x0 + schedule[i % 3]) % 2**32, (x1 + schedule[(i + 1) % 3] + i) % 2**32
    return x0, x1


def int32(x: int) -> Tensor:
    return torch.tensor(x, dtype=torch.int64).to(torch.int32)


def word_pairs(words: tuple[Tensor, Tensor]) -> list[tuple[int, int]]:
    """The two words of each hash, as word_pairs integers."""
    return list(zip(*(x.reshape(-1).view(torch.uint32).tolist() for x in words), strict=True))


@pytest.mark.parametrize("name", VECTORS)
def test_threefry_equals_its_authors_vectors(name: str) -> None:
    counter, key, expected = VECTORS[name]
    assert naive_threefry(key, counter) == expected
    assert word_pairs(threefry2x32(*map(int32, key), *map(int32, counter))) == [expected]


@pytest.mark.parametrize("start", [0, 1, (1 << 31) - 2, (1 << 32) - 2, 1 << 32, 5 << 40])
def test_counters_have_64_bits(start: int) -> None:
    words = (0xDEADBEEF, 0xFEDCBA98)
    keys = torch.tensor(words, dtype=torch.uint32)
    expected = [naive_threefry(words, divmod(counter, 1 << 32)) for counter in range(start, start + 4)]
    assert word_pairs(hash_counters(keys, start, 4)) == expected
    assert word_pairs(hash_counters(keys, torch.tensor(start), 4)) == expected


def test_zero_counters_give_empty_words() -> None:
    assert [x.shape for x in hash_counters(key(0), 3, 0)] == [(0,), (0,)]


def test_flipping_a_bit_of_the_counter_flips_half_of_the_result_bits() -> None:
    """The avalanche property, over 1,000 counters: on average 16 of 32 bits flip, give or take 1."""
    counter = torch.arange(1000, dtype=torch.int32)
    base = threefry2x32(int32(1), int32(2), 0, counter)
    for bit in range(32):
        flipped = threefry2x32(int32(1), int32(2), 0, counter ^ int32(1 << bit))
        for a, b in zip(base, flipped, strict=True):
            ones = sum(f"{x:b}".count("1") for x in (a ^ b).view(torch.uint32).tolist())
            assert abs(ones / 1000 - 16) < 1


def test_the_hash_leaves_its_arguments_as_they_are() -> None:
    words = [torch.tensor([i], dtype=torch.int32) for i in range(4)]
    threefry2x32(*words)
    assert [int(word) for word in words] == [0, 1, 2, 3]


def test_views_as_uint32_and_keys_keep_the_bits() -> None:
    x = torch.tensor([-1, 2], dtype=torch.int32)
    assert as_uint32(x).tolist() == [0xFFFFFFFF, 2]
    assert as_keys(x, x + 1).tolist() == [[0xFFFFFFFF, 0], [2, 3]]
    assert word_pairs(key_words(as_keys(x, x + 1)[1])) == [(2, 3)]


def test_a_key_may_be_a_strided_view() -> None:
    """Compiled code has to copy such a key first."""
    strided_key = torch.stack([key(1), key(2)], dim=1)[:, 1]
    assert strided_key.stride() == (2,)
    compiled = torch.compile(lambda k: hash_counters(k, 0, 3)[0], backend="aot_eager", fullgraph=True)
    assert torch.equal(hash_counters(strided_key, 0, 3)[0], hash_counters(key(2), 0, 3)[0])
    assert torch.equal(compiled(strided_key), hash_counters(key(2), 0, 3)[0])


@pytest.mark.parametrize("size", [0, 1, BLOCK["cpu"] - 1, BLOCK["cpu"], BLOCK["cpu"] + 1, 2 * BLOCK["cpu"]])
def test_sampling_in_blocks_equals_hashing_all_counters_at_once(size: int) -> None:
    sample = draw_elementwise(torch.bitwise_xor, key(1), (size,))
    x0, x1 = hash_counters(key(1), 0, size)
    assert torch.equal(sample, x0 ^ x1)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (torch.zeros(2, dtype=torch.int64), r"got torch.int64 \[2\]; make one with random.key"),
        (torch.zeros(3, 2, dtype=torch.uint32), r"got torch.uint32 \[3, 2\].*many keys \[n, 2\] at once"),
        (0, "got int"),
    ],
)
def test_invalid_keys_are_refused(bad: Tensor, got: str) -> None:
    with pytest.raises(TypeError, match=rf"a key is a torch.uint32 tensor \[2\], {got}"):
        inspect.unwrap(device_of)(bad)


def test_a_shape_that_is_no_tuple_is_refused() -> None:
    with pytest.raises(TypeError, match=r"shape must be a tuple, got 3; write \(3,\)"):
        inspect.unwrap(draw_elementwise)(torch.bitwise_xor, key(0), 3)


def test_a_tracers_hash_takes_the_place_of_ours_and_is_given_the_words() -> None:
    words = [torch.tensor([i], dtype=torch.int32) for i in range(1, 5)]
    token = HASH.set(lambda key0, key1, x0, x1: (key1 + x0, key0 + x1))
    try:
        first, second = threefry2x32(*words)
    finally:
        HASH.reset(token)
    assert (first.tolist(), second.tolist()) == ([5], [5])
    assert [x.tolist() for x in words] == [[1], [2], [3], [4]]
    assert threefry2x32(*words)[0].tolist() != [5]
