"""Encode documents into a token store, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipes.store import Location, write_store
from data_pipes.tokens import TokenStore, memory_store
from data_pipes.types import Document


class Encoder(Protocol):
    """A tokenizer, as far as `tokenize` needs it."""

    @property
    def encode_batch(self) -> Callable[[list[str]], Any]: ...


class Progress(NamedTuple):
    """Counts of what `tokenize` has encoded so far."""

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
        documents: read once, in order.
        tokenizer: has `encode_batch(texts) -> list of [n] integer arrays`.
        store_path: a folder to write; None keeps the store in memory.
        vocab_size: ids must be below it (the tokenizer's, or the model's if that is larger).
        separator_id: appended to every document (<|endoftext|>), so that a model learns where texts end;
            None appends none.
        fingerprint: of the tokenizer; the store records it.
        batch_characters: of a batch; 4 Mi characters by default.
        on_progress: called with a Progress after each batch.

    Returns:
        A TokenStore. Documents without a token leave neither tokens nor a separator.

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
    """Documents -> [n] ids each, the separator appended."""
    done = Progress(0, 0, 0)
    tail = np.array([] if separator_id is None else [separator_id], np.int64)
    for texts in _batches(documents, batch_characters):
        tokens = 0
        for ids in tokenizer.encode_batch(texts):
            row = np.concatenate([np.asarray(ids, np.int64), tail]) if len(ids) else np.zeros(0, np.int64)
            tokens += len(row)
            yield row
        done = Progress(
            done.documents + len(texts), done.characters + sum(map(len, texts)), done.tokens + tokens
        )
        if on_progress is not None:
            on_progress(done)


def _batches(documents: Iterable[Document], characters: int) -> Iterator[list[str]]:
    """Texts in groups of `characters` or a little more."""
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
