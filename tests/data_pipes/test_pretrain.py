"""Contents of a pretraining batch; `tests/laws/test_pipes.py` tests that it is a pipe."""

import itertools

import numpy as np
import pytest
import torch

from data_pipes.pretrain import pretrain_pipe
from data_pipes.table import TablePipe, batch_at, describe
from data_pipes.tokens import TokenStore, memory_store
from pure.plural import count_noun

DOCUMENTS = [[10, 11, 12, 0], [20, 21, 0], [30, 31, 32, 33, 34, 35, 0], [40, 0]]


def small_store(documents: list[list[int]] = DOCUMENTS) -> TokenStore:
    return memory_store(documents, vocab_size=100)


def small_pipe(**options: object) -> TablePipe:
    return pretrain_pipe(small_store(), **{"batch_size": 2, "length": 5, "key": 0, **options})  # type: ignore[arg-type]


def test_the_contents_of_a_batch() -> None:
    batch = small_pipe(shuffle=False, key=None)[0]
    assert batch["tokens"].tolist() == [[10, 11, 12, 0, 20], [21, 0, 30, 31, 32]]
    assert batch["labels"].tolist() == [[11, 12, 0, 20, 21], [0, 30, 31, 32, 33]]
    assert batch["row"].tolist() == [0, 1]
    assert set(batch) == {"tokens", "labels", "row"}
    assert {x.dtype for x in batch.values()} == {torch.int64}


def test_boundaries_mask_adds_segments_and_positions() -> None:
    batch = small_pipe(shuffle=False, key=None, boundaries="mask")[0]
    assert batch["tokens"].tolist() == [[10, 11, 12, 0, 20], [21, 0, 30, 31, 32]]
    assert batch["labels"].tolist() == [[11, 12, 0, -100, 21], [0, -100, 31, 32, 33]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0], [0, 1, 0, 1, 2]]
    assert {x.dtype for x in batch.values()} == {torch.int64}


def test_the_last_row_and_the_last_batch_are_padded() -> None:
    """16 tokens make rows of 5, 5 and 5 predictions; two batches of two rows."""
    last = small_pipe(shuffle=False, key=None)[1]
    assert last["row"].tolist() == [2, -1]
    assert last["tokens"].tolist() == [[33, 34, 35, 0, 40], [0] * 5]
    assert last["labels"].tolist() == [[34, 35, 0, 40, 0], [-100] * 5]
    short = small_pipe(shuffle=False, key=None, length=4)[1]
    assert short["tokens"].tolist() == [[31, 32, 33, 34], [35, 0, 40, 0]]
    assert short["labels"].tolist() == [[32, 33, 34, 35], [0, 40, 0, -100]]


def test_a_row_of_padding_has_its_own_segment_and_no_label() -> None:
    last = small_pipe(shuffle=False, key=None, boundaries="mask")[1]
    assert last["segment_ids"][1].tolist() == [0] * 5
    assert last["positions"][1].tolist() == [0, 1, 2, 3, 4]
    assert last["labels"][1].tolist() == [-100] * 5


@pytest.mark.parametrize(
    ("batch_size", "length", "epochs"), list(itertools.product((1, 2, 3, 7), (1, 4, 15), (1, 2, 3)))
)
def test_each_epoch_predicts_each_token_once(batch_size: int, length: int, epochs: int) -> None:
    """Each token has a different id, so the labels of an epoch are the ids 2 to 16, in any order."""
    numbered = memory_store([range(1, 8), range(8, 17)], vocab_size=17)
    pipe = pretrain_pipe(numbered, batch_size=batch_size, length=length, key=3, epochs=epochs)
    rows = -(-15 // length)  # rows of an epoch: 15 predictions, rounded up
    labels = torch.cat([batch["labels"] for batch in pipe])
    assert len(pipe) == -(-epochs * rows // batch_size)
    for epoch in range(epochs):
        seen = labels[epoch * rows : (epoch + 1) * rows]
        assert sorted(seen[seen != -100].tolist()) == list(range(2, 17))
    assert (labels[epochs * rows :] == -100).all()


def test_the_order_differs_between_epochs_and_keys() -> None:
    big = memory_store([np.arange(600) % 50], vocab_size=50)
    options = {"batch_size": 10, "length": 3}

    def order(key: int, epochs: int = 1) -> list[int]:
        return torch.cat([b["row"] for b in pretrain_pipe(big, key=key, epochs=epochs, **options)]).tolist()  # type: ignore[arg-type]

    two = order(0, epochs=2)
    assert two[:200] == order(0)
    assert sorted(two[:200]) == sorted(two[200:]) == list(range(200))
    assert len({tuple(two[:200]), tuple(two[200:]), tuple(order(1)), tuple(range(200))}) == 4


def test_the_key_may_be_a_tensor() -> None:
    key = torch.tensor([0, 5], dtype=torch.uint32)
    assert torch.equal(small_pipe(key=key)[0]["row"], small_pipe(key=5)[0]["row"])


def test_batch_at_ignores_the_slice_of_a_pipe() -> None:
    whole = small_pipe(epochs=3)
    assert torch.equal(batch_at(whole[2:3], 0)["tokens"], whole[0]["tokens"])


def test_describe_differs_between_pipes_but_not_between_slices() -> None:
    base = small_pipe()
    others = [
        small_pipe(key=1),
        small_pipe(length=4),
        small_pipe(batch_size=3),
        small_pipe(epochs=2),
        small_pipe(boundaries="mask"),
    ]
    others.append(pretrain_pipe(small_store([[1, 2, 3, 4, 5, 6, 7]]), batch_size=2, length=5, key=0))
    assert all(describe(other) != describe(base) for other in others)
    assert describe(base[1:]) == describe(base)


def test_the_description_of_a_pipe_is_short() -> None:
    import json

    assert len(json.dumps(describe(small_pipe()))) < 400


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"length": 16},
            ValueError,
            r"the corpus has 16 tokens, and one row of length 16 takes 17; pass length=15",
        ),
        ({"length": 0}, ValueError, "length must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"boundaries": "cut"}, ValueError, "'ignore' or 'mask', got 'cut'"),
        ({"key": None}, TypeError, r"shuffling needs a key; pass key=0"),
    ],
)
def test_invalid_arguments_are_refused(options: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        small_pipe(**options)


def test_an_index_out_of_range_is_refused() -> None:
    for pipe, index in ((small_pipe(), 2), (small_pipe(), -3), (small_pipe()[1:], 1), (small_pipe()[2:], 0)):
        with pytest.raises(
            IndexError, match=rf"pipe\[{index}\]: this pipe has {count_noun(len(pipe), 'batch', 'batches')}"
        ):
            pipe[index]
    with pytest.raises(TypeError):
        small_pipe()[0.5]  # type: ignore[call-overload]
