"""`data_pipes.tokenize`: documents are encoded into a token store, in memory or on disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data_pipes import tokenizer as tokenizers
from data_pipes.tokenize import Progress, encode_documents, tokenize
from data_pipes.types import Document


class ByteTokenizer(NamedTuple):
    """A tokenizer with one id a byte."""

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


def as_documents(*texts: str) -> list[Document]:
    return [Document(text, str(number)) for number, text in enumerate(texts)]


def test_each_document_that_is_not_empty_ends_with_the_separator() -> None:
    store = tokenize(as_documents("ab", "", "c"), ByteTokenizer(), vocab_size=257, separator_id=256)
    assert store.tokens.tolist() == [97, 98, 256, 99, 256]
    assert store.ends.tolist() == [3, 5]


def test_no_separator_is_added_for_none() -> None:
    store = tokenize(as_documents("ab", "c"), ByteTokenizer(), vocab_size=256, separator_id=None)
    assert store.tokens.tolist() == [97, 98, 99]


@pytest.mark.parametrize("batch", [1, 3, 1 << 22])
def test_the_batch_size_does_not_change_the_store(tmp_path: Path, batch: int) -> None:
    texts = ["a" * n for n in range(9)]
    in_memory = tokenize(
        as_documents(*texts), ByteTokenizer(), vocab_size=256, separator_id=0, batch_characters=batch
    )
    stored = tokenize(
        as_documents(*texts), ByteTokenizer(), tmp_path / "s", vocab_size=256, separator_id=0, fingerprint=""
    )
    assert in_memory.digest == stored.digest


def test_documents_are_read_lazily_and_progress_is_reported() -> None:
    """A batch is encoded once it has 5 characters, so every two documents of 3 characters give a report."""
    reports: list[Progress] = []
    reports_before_document: list[int] = []

    def stream() -> Iterator[Document]:
        for number in range(6):
            reports_before_document.append(len(reports))
            yield Document("abc", str(number))

    tokenize(
        stream(),
        ByteTokenizer(),
        vocab_size=256,
        separator_id=0,
        batch_characters=5,
        on_progress=reports.append,
    )
    assert reports == [Progress(2, 6, 8), Progress(4, 12, 16), Progress(6, 18, 24)]
    assert reports_before_document == [0, 0, 1, 1, 2, 2]


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    for documents in ([], as_documents("", "")):
        with pytest.raises(ValueError, match="the corpus has no token"):
            tokenize(documents, ByteTokenizer(), tmp_path / "s", vocab_size=256, separator_id=0)
    assert list(tmp_path.iterdir()) == []


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 98"):
        tokenize(as_documents("abc"), ByteTokenizer(), vocab_size=98, separator_id=0)


def test_the_number_of_workers_does_not_change_the_store(tmp_path: Path) -> None:
    texts = [f"def f{n}(x):\n    return {n} * 'é{'ab' * (n % 7)}'\n" * (n % 5) for n in range(60)]
    tokenizer = tokenizers.train(texts, 300)
    digests, reports = set(), []
    for workers in (1, 2, 3, None):
        progress: list[Progress] = []
        store = tokenize(
            as_documents(*texts),
            tokenizer,
            tmp_path / str(workers),
            vocab_size=300,
            separator_id=0,
            batch_characters=200,
            workers=workers,
            on_progress=progress.append,
        )
        digests.add(store.digest)
        reports.append(progress)
    assert len(digests) == 1
    assert len(reports[0]) > 10
    assert reports == [reports[0]] * 4
    assert reports[0][-1] == Progress(60, sum(map(len, texts)), len(store.tokens))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_text_that_the_tokenizer_refuses_is_named(tmp_path: Path, workers: int) -> None:
    texts = ["ab"] * 7 + ["a\ud800"] + ["ab"] * 7 + ["\ud800"]
    tokenizer = tokenizers.train(["ab"], 262)
    with pytest.raises(ValueError, match=r"^7: encode: .*surrogate"):
        tokenize(
            as_documents(*texts),
            tokenizer,
            tmp_path / "s",
            vocab_size=262,
            separator_id=0,
            batch_characters=10,
            workers=workers,
        )
    assert list(tmp_path.iterdir()) == []


def test_ids_keep_their_values_in_the_narrowest_dtype() -> None:
    class Wide(NamedTuple):
        """A tokenizer whose ids need two and four bytes."""

        def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
            return [np.array([255, 256, 65535, 65536][: len(text)], np.int32) for text in texts]

    for length, size in ((1, 1), (2, 2), (3, 2), (4, 4)):
        ids, ends = encode_documents(as_documents("a" * length, ""), tokenizer=Wide(), separator_id=None)
        assert (ids.tolist(), ids.itemsize) == ([255, 256, 65535, 65536][:length], size)
        assert ends.tolist() == [length, length]
    with pytest.raises(ValueError, match="ids from 255 to 65536, but vocab_size is 300"):
        tokenize(as_documents("aaaa"), Wide(), vocab_size=300, separator_id=None)
