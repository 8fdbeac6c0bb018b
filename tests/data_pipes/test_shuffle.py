"""`data_pipes.shuffle`: the stateless shuffle is a uniform permutation, and its keys equal jax's."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.shuffle import SMALL, fold_in, fold_in_name, key_words, permute, threefry2x32

WORD = st.integers(0, 2**32 - 1)


@given(n=st.integers(1, 3000), high=WORD, low=WORD)
def test_permute_is_a_permutation(n: int, high: int, low: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, (high, low))), np.arange(n))


@pytest.mark.parametrize("n", [SMALL, SMALL + 1, 2**16, 2**16 + 1, 300_000])
def test_permute_is_a_permutation_at_threshold_sizes(n: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, (1, 2))), np.arange(n))


@given(n=st.integers(1, 2**62), low=WORD, data=st.data())
def test_an_array_of_indices_is_permuted_like_each_index(n: int, low: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8, unique=True))
    permuted = permute(np.array(indices), n, (0, low))
    assert permuted.tolist() == [int(permute(index, n, (0, low))) for index in indices]
    assert len(set(permuted.tolist())) == len(indices)
    assert 0 <= permuted.min() <= permuted.max() < n


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_orders_of_a_short_list_are_equally_likely(n: int) -> None:
    """Chi-square over n! orders; the bound is the 99.9% point for n! - 1 degrees of freedom."""
    sample_count = 4000
    counts = Counter(tuple(permute(np.arange(n), n, (0, seed)).tolist()) for seed in range(sample_count))
    orders = list(itertools.permutations(range(n)))
    expected = sample_count / len(orders)
    statistic = sum((counts[order] - expected) ** 2 / expected for order in orders)
    assert statistic < {2: 10.83, 3: 20.52, 4: 49.73, 5: 173.6}[n]


@pytest.mark.parametrize("n", [1030, 1500])
def test_the_position_of_an_entry_and_the_distance_to_the_next_are_uniform(n: int) -> None:
    """Over many keys: chi-square of the position of entry 0, and of the distance from it to entry 1."""
    sample_count = 4000
    positions = np.array([permute(np.array([0, 1]), n, (0, seed)) for seed in range(sample_count)])
    distances = (positions[:, 1] - positions[:, 0]) % n - 1
    for values, bins in ((positions[:, 0], n), (distances, n - 1)):
        counts = np.bincount(values, minlength=bins)
        statistic = ((counts - sample_count / bins) ** 2 / (sample_count / bins)).sum()
        assert abs(statistic - bins) < 4 * np.sqrt(2 * bins)


def test_keys_epochs_and_names_give_unrelated_orders() -> None:
    n, key = 5000, key_words(0)
    orders = [
        permute(np.arange(n), n, k)
        for k in (key, key_words(1), fold_in(key, 0), fold_in(key, 1), fold_in_name(key, "x"))
    ]
    agreements = [(a == b).sum() for a, b in itertools.combinations(orders, 2)]
    assert max(agreements) < 8  # the number of positions where two shuffles agree is Poisson with mean 1


def test_the_order_of_a_key_never_changes() -> None:
    """A run that is resumed by a later version must see the same rows."""
    assert permute(np.arange(8), 8, (0, 7)).tolist() == [7, 0, 5, 1, 3, 2, 4, 6]
    assert permute(np.arange(4), 10**9, (0, 7)).tolist() == [835857116, 82702130, 449596828, 298547014]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 - 1, -(2**31), 1234567])
def test_keys_and_fold_in_equal_jax(seed: int) -> None:
    jax_key = jax.random.key(seed)
    assert key_words(seed) == tuple(jax.random.key_data(jax_key).tolist())
    for data in (0, 1, 2**32 - 1, 99):
        expected = jax.random.key_data(jax.random.fold_in(jax_key, np.uint32(data))).tolist()
        assert list(fold_in(key_words(seed), data)) == expected


def test_threefry_gives_the_published_vectors() -> None:
    """The three published vectors of Threefry-2x32-20."""
    assert threefry2x32((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    ones = 0xFFFFFFFF
    assert threefry2x32((ones, ones), (ones, ones)) == (0x1CB996FC, 0xBB002BE7)
    assert threefry2x32((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)) == (0xC4923A9C, 0x483DF7A0)


def test_a_key_may_be_a_seed_or_two_words() -> None:
    expected = (3, 4)
    for key in ((3, 4), [3, 4], np.array([3, 4], np.uint32), torch.tensor([3, 4], dtype=torch.uint32)):
        assert key_words(key) == expected
    assert key_words(np.int64(5)) == (0, 5)


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (None, TypeError, "pass key=0"),
        ("0", TypeError, "expected a seed"),
        (True, TypeError, "expected a seed"),
        (2**32, ValueError, "a seed must be in"),
        ((1, 2, 3), ValueError, "two words"),
        ((1, -1), ValueError, "two words"),
    ],
)
def test_an_invalid_key_is_refused(key: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        key_words(key)


@pytest.mark.parametrize(
    ("index", "n", "message"),
    [(0, 0, "is the corpus empty"), (3, 3, r"in \[0, 3\)"), (-1, 3, r"in \[0, 3\)")],
)
def test_an_index_out_of_range_is_refused(index: int, n: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        permute(index, n, (0, 0))
