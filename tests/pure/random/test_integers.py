"""`bits`, `randint` and `permutation` against jax.random's, bit for bit, over a million samples each."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure.random.integers import bits, permutation, randint
from pure.random.keys import key

MILLION = 1 << 20
OURS, THEIRS = key(7), jax.random.PRNGKey(7)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (MILLION,)) for name in ("uint8", "uint16", "uint32")),
        *(("uint32", s) for s in [(3, 0, 2), (), (2, 3)]),
    ],
)
def test_bits_equal_jax(name: str, shape: tuple[int, ...]) -> None:
    ours = bits(OURS, shape, getattr(torch, name)).numpy()
    theirs = np.asarray(jax.random.bits(THEIRS, shape, name))
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


def test_64_bit_bits_equal_jax() -> None:
    with jax.enable_x64(True):
        theirs = np.asarray(jax.random.bits(THEIRS, (MILLION,), jnp.uint64))
    assert np.array_equal(bits(OURS, (MILLION,), torch.uint64).numpy(), theirs)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("int32", 0, 10),
        ("int32", -5, 1 << 30),
        ("int32", -(2**31), 2**31 - 1),
        ("uint32", 0, 1_000_003),
        ("int16", -1000, 1000),
        ("uint16", 0, 1 << 16),
        ("int8", -128, 128),
        ("uint8", 3, 256),
    ],
)
def test_randint_equals_jax(name: str, low: int, high: int) -> None:
    ours = randint(OURS, (MILLION,), low, high, getattr(torch, name)).numpy()
    theirs = np.asarray(jax.random.randint(THEIRS, (MILLION,), low, high, name))
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)
    assert low <= ours.min()
    assert ours.max() < high


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("int32", 3, 3),
        ("int32", 5, 2),
        ("int8", -1000, 1000),
        ("uint8", -7, 9),
        ("int8", 500, 600),
        ("int8", -600, -500),
    ],
)
def test_randint_of_empty_and_too_wide_ranges_equals_jax(name: str, low: int, high: int) -> None:
    """An empty range gives minval; a range wider than the dtype is clipped to it."""
    ours = randint(OURS, (1000,), low, high, getattr(torch, name)).numpy()
    assert np.array_equal(ours, jax.random.randint(THEIRS, (1000,), low, high, name))


def test_randint_over_all_32_bit_values() -> None:
    """maxval may be one above the largest uint32, so that all 2³² values can occur. Of the two words that
    JAX's algorithm samples for each number, the result is then the lower one."""
    ours = randint(OURS, (MILLION,), 0, 1 << 32, torch.uint32).numpy()
    higher, lower = (np.asarray(jax.random.bits(k, (MILLION,))) for k in jax.random.split(THEIRS))
    assert np.array_equal(ours, lower)
    assert not np.array_equal(higher, lower)
    assert randint(OURS, (1000,), -(1 << 31), 1 << 31).min() < -(1 << 30)


def test_randint_with_tensors_as_bounds_equals_jax() -> None:
    low = np.random.default_rng(0).integers(-(2**31), 2**31, (1000, 1), dtype=np.int32)
    high = np.random.default_rng(1).integers(-(2**31), 2**31, (1000,), dtype=np.int32)
    ours = randint(OURS, (1000, 1000), torch.from_numpy(low), torch.from_numpy(high))
    assert np.array_equal(ours, jax.random.randint(THEIRS, (1000, 1000), low, high))


@pytest.mark.parametrize("n", [0, 1, 1625, 1626, MILLION])
def test_permutation_of_a_range_equals_jax(n: int) -> None:
    """1626 is the first length for which the algorithm sorts twice."""
    assert np.array_equal(permutation(OURS, n), jax.random.permutation(THEIRS, n))


@pytest.mark.parametrize(("axis", "independent"), [(0, False), (-1, False), (1, True)])
def test_permutation_along_an_axis_of_a_tensor_equals_jax(axis: int, independent: bool) -> None:
    x = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    ours = permutation(OURS, torch.from_numpy(x), axis, independent)
    assert np.array_equal(ours, jax.random.permutation(THEIRS, x, axis, independent))


def test_a_permutation_has_every_number_once() -> None:
    assert torch.equal(permutation(OURS, 5000).sort().values, torch.arange(5000))


def test_permutation_takes_its_length_as_a_0_d_tensor() -> None:
    assert torch.equal(permutation(OURS, torch.tensor(5)), permutation(OURS, 5))


@pytest.mark.parametrize("x", [5.5, torch.tensor(5.5), "5"])
def test_permutation_refuses_other_types_than_an_int_or_a_tensor_with_an_axis(x: Any) -> None:
    with pytest.raises(TypeError, match="x must be an int or a tensor with an axis"):
        inspect.unwrap(permutation)(OURS, x)
