"""The fine-tuning pipe: nothing is cut that fits, everything is seen once, and packed rows train as single
ones do."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.chat.chat import Encoded
from data_pipes.sft import fullness, sft_pipe
from pure import optim, random
from stages.sft import sft


def example(length: int, number: int, first: int = 1) -> Encoded:
    return Encoded(np.arange(length) % 5 + 2 + number % 9, np.arange(length) >= first)


@given(st.lists(st.integers(2, 25), min_size=1, max_size=40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_label_that_fits_is_predicted_once_an_epoch(lengths: list[int], packing: bool) -> None:
    """Whole examples only: in each row, each segment is one example from its first to its last place."""
    examples = [example(n, i) for i, n in enumerate(lengths)]
    pipe = sft_pipe(examples, batch_size=3, length=16, key=0, packing=packing)
    counted = sum(int((batch["labels"] != -100).sum()) for batch in pipe)
    assert counted == sum(min(n, 17) - 1 for n in lengths)
    assert pipe.truncated == sum(n > 17 for n in lengths)
    found = []
    for batch in pipe if packing else []:
        for tokens, segments, positions in zip(
            *(batch[k].tolist() for k in ("tokens", "segment_ids", "positions")), strict=True
        ):
            for segment in set(segments):
                here = [i for i, s in enumerate(segments) if s == segment]
                assert [positions[i] for i in here] == list(range(len(here)))
                found.append(tuple(tokens[i] for i in here))
    assert not packing or {tuple(e.tokens[:16][: len(e.tokens) - 1].tolist()) for e in examples} <= set(found)


def test_only_assistant_tokens_are_predicted() -> None:
    batch = sft_pipe([example(6, 0, first=4)], batch_size=1, length=8, key=0)[0]
    assert (batch["labels"] != -100).tolist() == [[False, False, False, True, True, False, False, False]]


def test_an_example_without_trained_tokens_is_dropped_and_reported() -> None:
    pipe = sft_pipe([example(9, 0, first=6), example(4, 1)], batch_size=1, length=4, key=0)
    assert (pipe.dropped, pipe.truncated, pipe.rows) == (1, 1, 1)


def test_packing_fills_the_rows() -> None:
    examples = [example(2 + (7 * i) % 40, i) for i in range(400)]
    packed, alone = (sft_pipe(examples, batch_size=1, length=64, key=0, packing=p) for p in (True, False))
    assert fullness(packed) > 0.97
    assert fullness(alone) < 0.5


def test_packed_rows_have_the_loss_and_gradient_of_single_ones() -> None:
    from tests.laws.test_stages import small, transformer

    examples = [example(n, i) for i, n in enumerate((5, 3, 7, 4, 6))]
    made = sft(transformer(small()), optim.sgd(0.1))
    state = made.init(random.key(0))
    metrics = [
        made.step(state, sft_pipe(examples, batch_size=5, length=12, key=0, packing=packing)[0]).metrics
        for packing in (True, False)
    ]
    for name in ("loss", "grad_norm", "tokens"):
        torch.testing.assert_close(metrics[0][name], metrics[1][name], rtol=1e-5, atol=1e-6)
