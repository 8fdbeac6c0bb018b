"""`data_pipes.tokens`: a corpus in memory, its digest and its manifest."""

import pickle

import numpy as np
import pytest

from data_pipes.digest import hash_json
from data_pipes.tokens import (
    TokenStore,
    checked_ids,
    empty_corpus_message,
    id_dtype,
    manifest_of,
    memory_store,
)


def small_store(*documents: list[int], vocab_size: int = 10) -> TokenStore:
    return memory_store(documents, vocab_size=vocab_size, tokenizer="t")


def test_the_arrays_of_a_memory_store_are_read_only() -> None:
    store = small_store([1, 2], [3])
    for array in (store.tokens, store.ends):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_memory_store_copies_its_source() -> None:
    ids = np.array([1, 2, 3], np.uint16)
    store = memory_store([ids], vocab_size=10)
    ids[0] = 9
    assert store.tokens.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("size", "width"), [(1, 2), (2**16, 2), (2**16 + 1, 4), (2**32, 4)])
def test_ids_have_the_smallest_dtype_that_fits(size: int, width: int) -> None:
    assert id_dtype(size).itemsize == width
    assert memory_store([[0]], vocab_size=size).tokens.dtype.itemsize == width


def test_the_digest_differs_for_every_change() -> None:
    store = small_store([1, 2], [3])
    others = [
        small_store([1, 2, 3]),
        small_store([1, 2], [4]),
        small_store([1, 2], [3], vocab_size=11),
        memory_store([[1, 2], [3]], vocab_size=10),
    ]
    assert len({s.digest for s in (store, *others)}) == 5
    assert small_store([1, 2], [], [3]).digest == store.digest


def test_a_pickled_store_keeps_its_contents_and_is_read_only() -> None:
    store = small_store([1, 2], [3])
    again = pickle.loads(pickle.dumps(store))
    assert again.digest == store.digest
    assert again.tokens.tolist() == [1, 2, 3]
    assert not again.tokens.flags.writeable


@pytest.mark.parametrize(
    ("documents", "error", "words"),
    [
        ([], ValueError, "no token"),
        ([[], []], ValueError, "no token"),
        ([[1], [10]], ValueError, "document 1 has ids from 10 to 10, but vocab_size is 10"),
        ([[-1]], ValueError, "ids from -1"),
        ([[0.5]], TypeError, r"document 0 must be \[n\] integers, got float64"),
        ([[[1]]], TypeError, "shape"),
    ],
)
def test_an_invalid_corpus_is_refused(documents: list, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        memory_store(documents, vocab_size=10)


@pytest.mark.parametrize("size", [0, -1, 2**32 + 1])
def test_an_impossible_vocabulary_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="vocab_size must be between"):
        id_dtype(size)


def test_ids_are_checked_as_they_stream() -> None:
    stream = checked_ids(iter([[1], [99]]), 10)
    assert next(stream).tolist() == [1]
    with pytest.raises(ValueError, match="document 1"):
        next(stream)


def test_a_manifest_contains_the_digest_of_its_other_fields() -> None:
    import hashlib

    manifest = manifest_of(10, "t", 3, 2, [hashlib.sha256(b"x"), hashlib.sha256(b"y")])
    assert manifest["digest"] == hash_json(
        {name: value for name, value in manifest.items() if name != "digest"}
    )
    assert manifest["sha256"]["documents.bin"] == hashlib.sha256(b"y").hexdigest()


def test_the_error_of_an_empty_corpus_says_to_check_the_path() -> None:
    assert "check the path" in empty_corpus_message("x")
