"""Bits per byte by hand, over every token once; the figures of compressors for comparison."""

from __future__ import annotations

import gzip
import lzma
import math

import pytest
import torch

from data_pipes.tokens import memory_store
from data_pipes.windows import windows
from pure import random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.run.validation import bits_per_byte, compression_rates

MODEL = transformer(
    ModelConfig(vocab_size=9, hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=1,
                num_hidden_layers=1, initializer_range=0.5)
)  # fmt: skip


def test_it_is_the_sum_over_tokens_of_minus_log2_over_bytes() -> None:
    tokens = [1, 5, 2, 8, 3, 3, 7, 1, 4]
    params = MODEL.init(random.key(0))
    logits = MODEL.forward(params, torch.tensor([tokens[:-1]]))[0].double()
    nats = -sum(logits.log_softmax(-1)[i, token] for i, token in enumerate(tokens[1:])).item()
    whole = windows(memory_store([tokens], vocab_size=9), batch_size=1, length=8, stride=8)
    found = bits_per_byte(MODEL, whole, 31, dtype=torch.float32)(params)
    assert found["val_loss"] == pytest.approx(nats / 8, rel=1e-6)
    assert found["val_bpb"] == pytest.approx(nats / math.log(2) / 31, rel=1e-6)


def test_batches_of_any_size_give_the_same() -> None:
    store = memory_store([[i % 9 for i in range(50)]], vocab_size=9)
    params = MODEL.init(random.key(0))
    found = [
        bits_per_byte(MODEL, windows(store, batch_size=size, length=8, stride=4), 50, dtype=torch.float32)(
            params
        )
        for size in (1, 3, 64)
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-6)


def test_asked_twice_it_answers_the_same_bits() -> None:
    store = memory_store([[i % 9 for i in range(50)]], vocab_size=9)
    ask = bits_per_byte(MODEL, windows(store, batch_size=2, length=8, stride=4), 50, dtype=torch.bfloat16)
    params = MODEL.init(random.key(0))
    assert ask(params) == ask(params)


def test_compressors_unpack_to_the_text_that_was_counted() -> None:
    text = b"".join(b"line %d\n" % (i * i) for i in range(500))
    found = compression_rates(text)
    assert found.gzip == 8 * len(gzip.compress(text, 9)) / len(text)
    assert found.xz == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)
