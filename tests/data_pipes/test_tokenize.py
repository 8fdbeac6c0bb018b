"""From documents to a store."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data_pipes.tokenize import Progress, tokenize
from data_pipes.types import Document


class Letters(NamedTuple):
    """A tokenizer that spells: one id a byte."""

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]


def corpus(*texts: str) -> list[Document]:
    return [Document(text, str(number)) for number, text in enumerate(texts)]


def test_each_document_ends_in_the_separator() -> None:
    store = tokenize(corpus("ab", "", "c"), Letters(), vocab_size=257, separator_id=256)
    assert store.tokens.tolist() == [97, 98, 256, 99, 256]
    assert store.ends.tolist() == [3, 5]


def test_without_a_separator() -> None:
    store = tokenize(corpus("ab", "c"), Letters(), vocab_size=256, separator_id=None)
    assert store.tokens.tolist() == [97, 98, 99]


@pytest.mark.parametrize("batch", [1, 3, 1 << 22])
def test_batches_change_nothing(tmp_path: Path, batch: int) -> None:
    texts = ["a" * n for n in range(9)]
    kept = tokenize(corpus(*texts), Letters(), vocab_size=256, separator_id=0, batch_characters=batch)
    stored = tokenize(
        corpus(*texts), Letters(), tmp_path / "s", vocab_size=256, separator_id=0, fingerprint=""
    )
    assert kept.digest == stored.digest


def test_progress_and_laziness() -> None:
    """Documents are asked for only as they are needed: after 5 characters the first batch is encoded."""
    reports: list[Progress] = []
    asked: list[int] = []

    def stream() -> Iterator[Document]:
        for number in range(6):
            asked.append(len(reports))
            yield Document("abc", str(number))

    tokenize(
        stream(), Letters(), vocab_size=256, separator_id=0, batch_characters=5, on_progress=reports.append
    )
    assert reports == [Progress(2, 6, 8), Progress(4, 12, 16), Progress(6, 18, 24)]
    assert asked == [0, 0, 1, 1, 2, 2]


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    for documents in ([], corpus("", "")):
        with pytest.raises(ValueError, match="the corpus has no token"):
            tokenize(documents, Letters(), tmp_path / "s", vocab_size=256, separator_id=0)
    assert list(tmp_path.iterdir()) == []


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 98"):
        tokenize(corpus("abc"), Letters(), vocab_size=98, separator_id=0)
