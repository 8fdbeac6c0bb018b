"""`pure.random.keys` against jax.random, bit for bit, up to a million keys at a time."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import numpy as np
import pytest
import torch

from pure.random.keys import clone, fold_in, key, key_data, split, wrap_key_data

MILLION = 1 << 20


@pytest.mark.parametrize("seed", [0, 1, 42, -1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**63)])
def test_key_of_a_seed_equals_jax(seed: int) -> None:
    assert key(seed).tolist() == jax.random.PRNGKey(seed).tolist()
    assert key(torch.tensor(seed)).tolist() == key(seed).tolist()
    assert key(seed).dtype == torch.uint32


def test_keys_of_many_seeds_under_vmap_equal_jax() -> None:
    seeds = np.random.default_rng(0).integers(-(2**31), 2**31, MILLION, dtype=np.int32)
    ours = torch.func.vmap(key)(torch.from_numpy(seeds))
    assert np.array_equal(ours, jax.vmap(jax.random.PRNGKey)(seeds))


@pytest.mark.parametrize("num", [0, 1, 2, MILLION, (3, 0), (2, 3, 4), ()])
def test_split_equals_jax(num: int | tuple[int, ...]) -> None:
    ours, theirs = split(key(7), num), jax.random.split(jax.random.PRNGKey(7), num)
    assert ours.dtype == torch.uint32
    assert ours.shape == theirs.shape
    assert np.array_equal(ours, theirs)


def test_fold_in_equals_jax() -> None:
    data = np.random.default_rng(0).integers(0, 2**32, MILLION, dtype=np.uint32)
    ours = torch.func.vmap(fold_in, (None, 0))(key(7), torch.from_numpy(data.astype(np.int64)))
    theirs = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.PRNGKey(7), data)
    assert np.array_equal(ours, theirs)
    for i in range(5):
        assert fold_in(key(7), int(data[i])).tolist() == theirs[i].tolist()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.int8])
def test_fold_in_takes_any_integer_dtype(dtype: torch.dtype) -> None:
    assert fold_in(key(7), torch.tensor(100, dtype=dtype)).tolist() == fold_in(key(7), 100).tolist()


def test_fold_in_takes_tensors_modulo_2_to_the_32() -> None:
    assert fold_in(key(7), torch.tensor(-1)).tolist() == fold_in(key(7), 2**32 - 1).tolist()
    assert fold_in(key(7), torch.tensor((5 << 32) + 3)).tolist() == fold_in(key(7), 3).tolist()


def test_split_equals_fold_in_of_0_to_n() -> None:
    assert np.array_equal(split(key(7), 9), torch.func.vmap(fold_in, (None, 0))(key(7), torch.arange(9)))


def test_the_first_keys_of_a_split_do_not_depend_on_its_size() -> None:
    assert torch.equal(split(key(7), 3).long(), split(key(7), 9)[:3].long())


def test_wrap_key_data_key_data_and_clone_keep_the_words_of_a_key() -> None:
    jax_keys = jax.random.split(jax.random.key(7), (2, 3))
    ours = wrap_key_data(jax.random.key_data(jax_keys))
    assert np.array_equal(ours, split(key(7), (2, 3)))
    assert key_data(ours) is ours
    copy = clone(key(7))
    assert torch.equal(copy, key(7))
    assert np.array_equal(jax.random.key_data(jax.random.wrap_key_data(copy.numpy())), key(7))


@pytest.mark.parametrize(
    ("words", "impl", "message"),
    [
        (torch.zeros(2, dtype=torch.int64), None, r"uint32 \[..., 2\], got torch.int64 \[2\]"),
        (np.zeros(3, np.uint32), None, r"got torch.uint32 \[3\]"),
        (jax.random.key(7), None, r"got key<fry> \[\]; for typed keys of JAX give jax.random.key_data"),
        (np.zeros(4, np.uint32), "rbg", 'impl must be "threefry2x32"'),
    ],
)
def test_arrays_that_are_no_keys_are_refused(words: Any, impl: str | None, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        inspect.unwrap(wrap_key_data)(words, impl=impl)
    if impl is None:
        with pytest.raises(TypeError, match=r"keys are a torch.uint32 tensor"):
            inspect.unwrap(key_data)(words)
