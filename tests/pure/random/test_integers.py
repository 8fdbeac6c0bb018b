"""Bits, integers and orders against jax.random's, bit for bit, over a million draws each."""

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
def test_bits(name: str, shape: tuple[int, ...]) -> None:
    ours = bits(OURS, shape, getattr(torch, name)).numpy()
    theirs = np.asarray(jax.random.bits(THEIRS, shape, name))
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


def test_bits_of_64() -> None:
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
def test_randint(name: str, low: int, high: int) -> None:
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
def test_randint_of_odd_ranges(name: str, low: int, high: int) -> None:
    """Empty ones give minval; those beyond what the dtype holds are cut."""
    ours = randint(OURS, (1000,), low, high, getattr(torch, name)).numpy()
    assert np.array_equal(ours, jax.random.randint(THEIRS, (1000,), low, high, name))


def test_randint_of_all_there_are() -> None:
    """A maxval one above the largest value: the range of 2³² values, which JAX writes as an array of
    uint32."""
    ours = randint(OURS, (MILLION,), 0, 1 << 32, torch.uint32).numpy()
    higher, lower = (np.asarray(jax.random.bits(k, (MILLION,))) for k in jax.random.split(THEIRS))
    assert np.array_equal(ours, lower)
    assert not np.array_equal(higher, lower)
    assert randint(OURS, (1000,), -(1 << 31), 1 << 31).min() < -(1 << 30)


def test_randint_between_tensors() -> None:
    low = np.random.default_rng(0).integers(-(2**31), 2**31, (1000, 1), dtype=np.int32)
    high = np.random.default_rng(1).integers(-(2**31), 2**31, (1000,), dtype=np.int32)
    ours = randint(OURS, (1000, 1000), torch.from_numpy(low), torch.from_numpy(high))
    assert np.array_equal(ours, jax.random.randint(THEIRS, (1000, 1000), low, high))


@pytest.mark.parametrize("n", [0, 1, 1625, 1626, MILLION])
def test_permutation(n: int) -> None:
    """1626 is the first length that is sorted twice."""
    assert np.array_equal(permutation(OURS, n), jax.random.permutation(THEIRS, n))


@pytest.mark.parametrize(("axis", "independent"), [(0, False), (-1, False), (1, True)])
def test_permutation_of_a_tensor(axis: int, independent: bool) -> None:
    x = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    ours = permutation(OURS, torch.from_numpy(x), axis, independent)
    assert np.array_equal(ours, jax.random.permutation(THEIRS, x, axis, independent))


def test_a_permutation_loses_nothing() -> None:
    assert torch.equal(permutation(OURS, 5000).sort().values, torch.arange(5000))


def test_a_number_in_a_tensor_is_a_number() -> None:
    assert torch.equal(permutation(OURS, torch.tensor(5)), permutation(OURS, 5))


@pytest.mark.parametrize("x", [5.5, torch.tensor(5.5), "5"])
def test_a_permutation_needs_an_int_or_an_axis(x: Any) -> None:
    with pytest.raises(TypeError, match="x must be an int or a tensor with an axis"):
        inspect.unwrap(permutation)(OURS, x)
