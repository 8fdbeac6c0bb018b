"""Encode documents into a token store, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipes.store import Location, write_store
from data_pipes.tokens import TokenStore, memory_store
from data_pipes.types import Document


class Encoder(Protocol):
    """The part of a tokenizer that `tokenize` uses."""

    @property
    def encode_batch(self) -> Callable[[list[str]], Any]: ...


class Progress(NamedTuple):
    """Numbers of documents, characters and tokens that `tokenize` has encoded so far."""

    documents: int
    characters: int
    tokens: int


def tokenize(
    documents: Iterable[Document],
    tokenizer: Encoder,
    store_path: Location | None = None,
    *,
    vocab_size: int,
    separator_id: int | None,
    fingerprint: str = "",
    batch_characters: int = 1 << 22,
    on_progress: Callable[[Progress], None] | None = None,
) -> TokenStore:
    """Encodes documents into a store, a few million characters at a time, so that memory is bounded.

    Args:
        documents: the documents, read once, in order.
        tokenizer: object with `encode_batch(texts) -> list of [n] integer arrays`.
        store_path: the folder to write; None keeps the store in memory.
        vocab_size: upper limit of the ids (exclusive): the tokenizer's size, or the model's if it is larger.
        separator_id: id that is appended to every document (<|endoftext|>), so that a model learns where
            texts end; None appends none.
        fingerprint: fingerprint of the tokenizer, which the store records.
        batch_characters: characters that are encoded at once; 4 Mi by default.
        on_progress: called with a Progress after each batch.

    Returns:
        A TokenStore. A document without a token is skipped, without a separator.

    Raises:
        ValueError: if no document has a token, or an id is not below vocab_size.
        FileExistsError, OSError: as `write_store`.

    Example:
        >>> from types import SimpleNamespace
        >>> spell = SimpleNamespace(encode_batch=lambda texts: [list(text.encode()) for text in texts])
        >>> texts = [Document("ab", "1"), Document("c", "2")]
        >>> store = tokenize(texts, spell, vocab_size=256, separator_id=0)
        >>> store.tokens.tolist(), store.ends.tolist()
        ([97, 98, 0, 99, 0], [3, 5])
    """
    encoded = _encode_documents(documents, tokenizer, separator_id, batch_characters, on_progress)
    if store_path is None:
        return memory_store(encoded, vocab_size=vocab_size, tokenizer=fingerprint)
    return write_store(store_path, encoded, vocab_size=vocab_size, tokenizer=fingerprint)


def _encode_documents(
    documents: Iterable[Document],
    tokenizer: Encoder,
    separator_id: int | None,
    batch_characters: int,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[np.ndarray]:
    """Yields the ids of each document, [n] int64, with the separator appended."""
    done = Progress(0, 0, 0)
    separator = np.array([] if separator_id is None else [separator_id], np.int64)
    for texts in _batches(documents, batch_characters):
        tokens = 0
        for ids in tokenizer.encode_batch(texts):
            row = np.zeros(0, np.int64)
            if len(ids):
                row = np.concatenate([np.asarray(ids, np.int64), separator])
            tokens += len(row)
            yield row
        done = Progress(
            done.documents + len(texts), done.characters + sum(map(len, texts)), done.tokens + tokens
        )
        if on_progress is not None:
            on_progress(done)


def _batches(documents: Iterable[Document], characters: int) -> Iterator[list[str]]:
    """Yields groups of texts that together have at least `characters` characters."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.text)
        size += len(document.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
