"""Encode documents into a token store, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipes.store import Location, write_store
from data_pipes.tokens import TokenStore, memory_store
from data_pipes.types import Document, text_length
from data_pipes.workers import group, map_in_order


class Encoder(Protocol):
    """The part of a tokenizer that `tokenize` uses."""

    @property
    def encode_batch(self) -> Callable[[list[str]], Any]: ...


class Progress(NamedTuple):
    """Numbers of documents, characters and tokens that `tokenize` has encoded so far."""

    documents: int
    characters: int
    tokens: int


class Encoded(NamedTuple):
    """The ids of a batch of documents.

    Fields:
        ids: [n] of the narrowest dtype that holds them, as workers send them through a pipe.
        ends: [documents] int64: the end of each document in `ids` (exclusive).
    """

    ids: np.ndarray
    ends: np.ndarray


def tokenize(
    documents: Iterable[Document],
    tokenizer: Encoder,
    store_path: Location | None = None,
    *,
    vocab_size: int,
    separator_id: int | None,
    fingerprint: str = "",
    batch_characters: int = 1 << 21,
    workers: int | None = 1,
    on_progress: Callable[[Progress], None] | None = None,
) -> TokenStore:
    """Encodes documents into a store, two million characters at a time, so that memory is bounded.

    Args:
        documents: the documents, read once, in order.
        tokenizer: object with `encode_batch(texts) -> list of [n] integer arrays`; picklable, unless
            workers is 1.
        store_path: the folder to write; None keeps the store in memory.
        vocab_size: upper limit of the ids (exclusive): the tokenizer's size, or the model's if it is larger.
        separator_id: id that is appended to every document (<|endoftext|>), so that a model learns where
            texts end; None appends none.
        fingerprint: fingerprint of the tokenizer, which the store records.
        batch_characters: characters that are encoded at once; 2 Mi by default.
        workers: processes that encode, see `map_in_order`; the store does not depend on it. None takes all
            cores, or 1 for a few batches (8 Mi characters by default).
        on_progress: called with a Progress after each batch.

    Returns:
        A TokenStore. A document without a token is skipped, without a separator.

    Raises:
        ValueError: if no document has a token, an id is not below vocab_size, or the tokenizer refuses a
            text; the message names the document.
        ChildProcessError: if a worker process was ended.
        FileExistsError, OSError: as `write_store`.

    Example:
        >>> from types import SimpleNamespace
        >>> spell = SimpleNamespace(encode_batch=lambda texts: [list(text.encode()) for text in texts])
        >>> texts = [Document("ab", "1"), Document("c", "2")]
        >>> store = tokenize(texts, spell, vocab_size=256, separator_id=0)
        >>> store.tokens.tolist(), store.ends.tolist()
        ([97, 98, 0, 99, 0], [3, 5])
    """
    batches = group(documents, batch_characters, text_length)
    encode = partial(encode_documents, tokenizer=tokenizer, separator_id=separator_id)
    rows = _split_batches(map_in_order(encode, batches, workers), on_progress)
    if store_path is None:
        return memory_store(rows, vocab_size=vocab_size, tokenizer=fingerprint)
    return write_store(store_path, rows, vocab_size=vocab_size, tokenizer=fingerprint)


def encode_documents(batch: list[Document], *, tokenizer: Encoder, separator_id: int | None) -> Encoded:
    """Encodes a batch of documents, each with the separator after it, unless it has no token.

    Raises:
        ValueError: if the tokenizer refuses a text; the message has the document's name.

    Example:
        >>> from types import SimpleNamespace
        >>> spell = SimpleNamespace(encode_batch=lambda texts: [list(text.encode()) for text in texts])
        >>> encode_documents([Document("ab", "1"), Document("", "2")], tokenizer=spell, separator_id=0)
        Encoded(ids=array([97, 98,  0], dtype=uint8), ends=array([3, 3]))
    """
    try:
        rows = tokenizer.encode_batch([document.text for document in batch])
    except ValueError:
        _refuse_document(batch, tokenizer)
        raise
    separator = [] if separator_id is None else [np.array([separator_id])]
    parts = [part for ids in rows if len(ids) for part in (np.asarray(ids), *separator)]
    sizes = [len(ids) + len(separator) if len(ids) else 0 for ids in rows]
    ids = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    if ids.size and ids.dtype.kind in "iu" and ids.min() >= 0:
        ids = ids.astype(np.min_scalar_type(ids.max()))
    return Encoded(ids, np.cumsum(sizes, dtype=np.int64))


def _refuse_document(batch: list[Document], tokenizer: Encoder) -> None:
    """Raises for the first document of a batch that the tokenizer refuses."""
    for document in batch:
        try:
            tokenizer.encode_batch([document.text])
        except ValueError as error:
            raise ValueError(f"{document.name}: {error}") from None


def _split_batches(
    batches: Iterable[tuple[list[Document], Encoded]], on_progress: Callable[[Progress], None] | None
) -> Iterator[np.ndarray]:
    """Yields the ids of each document, and reports after each batch."""
    done = Progress(0, 0, 0)
    for documents, (ids, ends) in batches:
        yield from np.split(ids, ends[:-1])
        done = Progress(
            done.documents + len(documents),
            done.characters + sum(map(text_length, documents)),
            done.tokens + len(ids),
        )
        if on_progress is not None:
            on_progress(done)
