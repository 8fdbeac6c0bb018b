"""`windows`: every token but the first is a label once, with enough context before it."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipes.tokens import memory_store
from data_pipes.windows import windows
from pure.loss.cross_entropy import IGNORE


@pytest.mark.parametrize("count", [2, 3, 8, 9, 10, 40])
@pytest.mark.parametrize(("length", "stride"), [(8, 8), (8, 4), (8, 3), (8, 1), (1, 1)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_each_token_is_a_label_once_with_the_tokens_before_it(
    count: int, length: int, stride: int, batch_size: int
) -> None:
    tokens = list(range(1, count + 1))
    pipe = windows(memory_store([tokens], vocab_size=64), batch_size=batch_size, length=length, stride=stride)
    labelled = []
    for number in range(len(pipe)):
        batch = pipe[number]
        assert batch["tokens"].shape == batch["labels"].shape == (batch_size, length)
        for row, labels in zip(batch["tokens"].numpy(), batch["labels"].numpy(), strict=True):
            for place in np.flatnonzero(labels != IGNORE):
                label = int(labels[place])
                labelled.append(label)
                context = row[: place + 1]
                assert context.tolist() == tokens[label - 1 - len(context) : label - 1]
                assert len(context) > min(length - stride, label - 2)
    assert sorted(labelled) == tokens[1:]


def test_an_index_after_the_last_batch_is_refused() -> None:
    pipe = windows(memory_store([[1, 2, 3, 4]], vocab_size=8), batch_size=2, length=2, stride=1)
    assert len(pipe) == 1
    for index in (1, -2):
        with pytest.raises(IndexError, match="this pipe has 1 batch;"):
            pipe[index]


@pytest.mark.parametrize("sizes", [{"stride": 0}, {"stride": 5}, {"batch_size": 0}])
def test_sizes_out_of_range_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= stride <= length and batch_size >= 1"):
        windows(memory_store([[1, 2]], vocab_size=8), **({"batch_size": 1, "length": 4, "stride": 2} | sizes))


def test_boundaries_mask_separates_documents_as_in_training() -> None:
    """Segments, positions and labels of a window equal those of a training row at the same place."""
    store = memory_store([[1, 2, 3], [4, 5, 6, 7], [8, 9]], vocab_size=10)
    batch = windows(store, batch_size=3, length=4, stride=2, boundaries="mask")[0]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 1]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0], [0, 0, 1, 2], [0, 1, 2, 0]]
    assert batch["labels"].tolist() == [[2, 3, -100, 5], [-100, -100, 6, 7], [-100, -100, -100, 9]]


def test_a_row_of_padding_is_one_segment_without_labels() -> None:
    store = memory_store([[1, 2, 3], [4, 5]], vocab_size=6)
    batch = windows(store, batch_size=2, length=4, stride=4, boundaries="mask")[0]
    assert [batch[name][1].tolist() for name in ("tokens", "labels", "segment_ids", "positions")] == [
        [0] * 4,
        [-100] * 4,
        [0] * 4,
        [0, 1, 2, 3],
    ]
