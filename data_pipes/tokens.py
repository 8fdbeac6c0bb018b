"""Token stores: a corpus as one long array of token ids, with the ends of its documents.

That is all a pipe reads of a corpus. Here a store is in memory; `data_pipes.store` has it on disk.

Shape letters: N tokens, D documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipes.digest import hash_json

FORMAT = "intro2llm token store 1"
FILES = ("tokens.bin", "documents.bin")


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenStore:
    """A corpus of token ids, read-only; in memory (`memory_store`) or mapped from disk (`open_store`).

    Args:
        tokens: [N] uint16 or uint32, an array or a memory map.
        ends: [D] int64 ascending: the end of each document (exclusive); the last is N.
        vocab_size: every id is below it.
        tokenizer: fingerprint of the tokenizer that made the ids, "" if unknown.
        digest: sha256 over everything above: two stores with one digest hold the same corpus.
        path: the folder on disk; None for a store in memory.
        reopen: () -> TokenStore, maps that folder again; None for a store in memory.
    """

    tokens: np.ndarray
    ends: np.ndarray
    vocab_size: int
    tokenizer: str
    digest: str
    path: str | None = None
    reopen: Callable[[], TokenStore] | None = None

    def __reduce__(self) -> Any:
        """Pickles a mapped store as its path (a worker maps it again), one in memory as its arrays."""
        if self.reopen is not None:
            return self.reopen, ()
        return _in_memory, (self.tokens, self.ends, self.vocab_size, self.tokenizer)


def memory_store(documents: Iterable[Any], *, vocab_size: int, tokenizer: str = "") -> TokenStore:
    """Makes a store in memory from documents of ids ([n] integers each); empty ones are skipped.

    Raises:
        ValueError: if there is no token, or an id is outside [0, vocab_size).

    Example:
        >>> store = memory_store([[1, 2, 0], [], [3, 0]], vocab_size=4)
        >>> store.tokens.tolist(), store.ends.tolist()
        ([1, 2, 0, 3, 0], [3, 5])
    """
    parts = [ids for ids in checked_ids(documents, vocab_size) if len(ids)]
    if not parts:
        raise ValueError(empty_corpus_message("memory_store"))
    return _in_memory(
        np.concatenate(parts), np.cumsum([len(x) for x in parts], dtype="<i8"), vocab_size, tokenizer
    )


def id_dtype(vocab_size: int) -> np.dtype:
    """Chooses the dtype of stored ids: two bytes if the vocabulary allows, else four, little-endian.

    Raises:
        ValueError: if vocab_size is outside [1, 2**32].

    Example:
        >>> id_dtype(50257).itemsize, id_dtype(151936).itemsize
        (2, 4)
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(
            f"store: vocab_size must be between 1 and 2**32, got {vocab_size}; pass the tokenizer's size"
        )
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def checked_ids(documents: Iterable[Any], vocab_size: int) -> Iterator[np.ndarray]:
    """Converts documents of ids one by one to `id_dtype`, and refuses ids out of range.

    Raises:
        TypeError: if a document is not a flat sequence of integers.
        ValueError: if an id is outside [0, vocab_size); the message counts documents from 0.
    """
    dtype = id_dtype(vocab_size)
    for number, document in enumerate(documents):
        ids = np.asarray(document)
        if ids.size and (ids.dtype.kind not in "iu" or ids.ndim != 1):
            raise TypeError(
                f"store: document {number} must be [n] integers, got {ids.dtype} of shape {ids.shape}"
            )
        if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
            raise ValueError(
                f"store: document {number} has ids from {ids.min()} to {ids.max()}, but vocab_size is "
                f"{vocab_size}; was it encoded with another tokenizer? pass the vocabulary size of the one "
                "that encoded it"
            )
        yield ids.astype(dtype)


def manifest_of(
    vocab_size: int, tokenizer: str, tokens: int, documents: int, hashes: Iterable[Any]
) -> dict[str, Any]:
    """Makes the manifest of a corpus, with a digest over all of it.

    Args:
        vocab_size: every id is below it.
        tokenizer: fingerprint.
        tokens: N.
        documents: D.
        hashes: hashlib objects over the bytes of `tokens` and of `ends`, in that order.

    Returns:
        Plain JSON values, `digest` among them.
    """
    fields = {
        "format": FORMAT,
        "vocab_size": vocab_size,
        "tokenizer": tokenizer,
        "tokens": tokens,
        "documents": documents,
        "sha256": {name: value.hexdigest() for name, value in zip(FILES, hashes, strict=True)},
    }
    return {**fields, "digest": hash_json(fields)}


def empty_corpus_message(caller: str) -> str:
    """Returns the error message for an empty corpus."""
    return (
        f"{caller}: the corpus has no token: every document is empty, or there is none; check the path of "
        "the source"
    )


def _in_memory(tokens: np.ndarray, ends: np.ndarray, vocab_size: int, tokenizer: str) -> TokenStore:
    """Makes a store of the arrays, which become read-only."""
    hashes = []
    for array in (tokens, ends):
        array.flags.writeable = False
        hashes.append(hashlib.sha256(array.data))
    digest = manifest_of(vocab_size, tokenizer, len(tokens), len(ends), hashes)["digest"]
    return TokenStore(tokens=tokens, ends=ends, vocab_size=vocab_size, tokenizer=tokenizer, digest=digest)
