"""The fine-tuning pipe: each label is predicted once an epoch, packed rows have the loss of unpacked ones."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.chat.chat import Encoded
from data_pipes.ragged import concatenate
from data_pipes.sft import PackedExamples, fullness, sft_pipe, take
from pure import optim, random
from stages.sft import sft


def example(length: int, number: int, first: int = 1) -> Encoded:
    """An example of `length` tokens that depend on `number`, trained from position `first` on."""
    return Encoded(np.arange(length) % 5 + 2 + number % 9, np.arange(length) >= first)


@given(st.lists(st.integers(2, 25), min_size=1, max_size=40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_label_that_fits_is_predicted_once_an_epoch(lengths: list[int], packing: bool) -> None:
    """A row predicts 16 tokens, so 17 tokens of an example fit. Each packed segment is one example."""
    examples = [example(n, i) for i, n in enumerate(lengths)]
    pipe = sft_pipe(examples, batch_size=3, length=16, key=0, packing=packing)
    labels = sum(int((batch["labels"] != -100).sum()) for batch in pipe)
    assert labels == sum(min(n, 17) - 1 for n in lengths)
    assert pipe.truncated == sum(n > 17 for n in lengths)
    if not packing:
        return
    found = set()
    for batch in pipe:
        columns = (batch[name].tolist() for name in ("tokens", "segment_ids", "positions"))
        for tokens, segments, positions in zip(*columns, strict=True):
            for segment in set(segments):
                places = [place for place, number in enumerate(segments) if number == segment]
                assert [positions[place] for place in places] == list(range(len(places)))
                found.add(tuple(tokens[place] for place in places))
    inputs = {tuple(e.tokens[:16][: len(e.tokens) - 1].tolist()) for e in examples}  # all tokens but the last
    assert inputs <= found


def test_only_assistant_tokens_are_predicted() -> None:
    batch = sft_pipe([example(6, 0, first=4)], batch_size=1, length=8, key=0)[0]
    assert (batch["labels"] != -100).tolist() == [[False, False, False, True, True, False, False, False]]


def test_a_batch_shares_no_memory_with_the_row_numbers() -> None:
    table = PackedExamples(concatenate([example(3, 0)], "mine"), np.array([0]), np.array([1]))
    rows = np.array([0, -1])
    batch = take(table, rows, length=4)
    assert batch["row"].tolist() == [0, -1]
    assert not np.shares_memory(batch["row"], rows)
    assert batch["positions"].tolist() == [[0, 1, 0, 1], [0, 1, 2, 3]]
    assert batch["segment_ids"].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_an_example_without_trained_tokens_is_dropped_and_reported() -> None:
    pipe = sft_pipe([example(9, 0, first=6), example(4, 1)], batch_size=1, length=4, key=0)
    assert (pipe.dropped, pipe.truncated, pipe.rows) == (1, 1, 1)


def test_packed_rows_are_nearly_full() -> None:
    examples = [example(2 + (7 * i) % 40, i) for i in range(400)]
    packed, unpacked = (sft_pipe(examples, batch_size=1, length=64, key=0, packing=p) for p in (True, False))
    assert fullness(packed) > 0.97
    assert fullness(unpacked) < 0.5


def test_packed_rows_have_the_loss_and_gradient_norm_of_unpacked_ones() -> None:
    from tests.laws.test_stages import small, transformer

    examples = [example(n, i) for i, n in enumerate((5, 3, 7, 4, 6))]
    stage = sft(transformer(small()), optim.sgd(0.1))
    state = stage.init(random.key(0))
    metrics = [
        stage.step(state, sft_pipe(examples, batch_size=5, length=12, key=0, packing=packing)[0]).metrics
        for packing in (True, False)
    ]
    for name in ("loss", "grad_norm", "tokens"):
        torch.testing.assert_close(metrics[0][name], metrics[1][name], rtol=1e-5, atol=1e-6)
