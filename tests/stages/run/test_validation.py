"""Bits per byte against a sum by hand, over every token once; bits per byte of gzip and xz."""

from __future__ import annotations

import gzip
import lzma
import math

import pytest
import torch

from data_pipes.tokens import memory_store
from data_pipes.windows import windows
from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.population import population
from stages.pretrain import pretrain
from stages.run.validation import bits_per_byte, compression_rates, mean_loss

MODEL = transformer(
    ModelConfig(vocab_size=9, hidden_size=8, intermediate_size=12, num_attention_heads=2,
                num_key_value_heads=1, num_hidden_layers=1, initializer_range=0.5)
)  # fmt: skip


def test_bits_per_byte_is_the_sum_of_minus_log2_over_the_bytes() -> None:
    tokens = [1, 5, 2, 8, 3, 3, 7, 1, 4]
    params = MODEL.init(random.key(0))
    logits = MODEL.forward(params, torch.tensor([tokens[:-1]]))[0].double()
    nats = -sum(logits.log_softmax(-1)[i, token] for i, token in enumerate(tokens[1:])).item()
    one_window = windows(memory_store([tokens], vocab_size=9), batch_size=1, length=8, stride=8)
    results = bits_per_byte(MODEL, one_window, 31, dtype=torch.float32)(params)
    assert results["val_loss"] == pytest.approx(nats / 8, rel=1e-6)
    assert results["val_bpb"] == pytest.approx(nats / math.log(2) / 31, rel=1e-6)


def test_bits_per_byte_does_not_depend_on_the_batch_size() -> None:
    store = memory_store([[i % 9 for i in range(50)]], vocab_size=9)
    params = MODEL.init(random.key(0))
    results = [
        bits_per_byte(MODEL, windows(store, batch_size=size, length=8, stride=4), 50, dtype=torch.float32)(
            params
        )
        for size in (1, 3, 64)
    ]
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-6)


def test_bits_per_byte_is_the_same_bit_for_bit_if_computed_twice() -> None:
    store = memory_store([[i % 9 for i in range(50)]], vocab_size=9)
    evaluate = bits_per_byte(
        MODEL, windows(store, batch_size=2, length=8, stride=4), 50, dtype=torch.bfloat16
    )
    params = MODEL.init(random.key(0))
    assert evaluate(params) == evaluate(params)


def test_compression_rates_are_bits_per_byte_of_gzip_and_xz() -> None:
    text = b"".join(b"line %d\n" % (i * i) for i in range(500))
    results = compression_rates(text)
    assert results.gzip == 8 * len(gzip.compress(text, 9)) / len(text)
    assert results.xz == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text)


def test_the_loss_of_a_population_is_refused() -> None:
    tokens = torch.arange(8).view(2, 4)
    members = population(pretrain(MODEL, optim.sgd(0.1)), 2)
    state = members.init(random.key(0))
    with pytest.raises(ValueError, match="a population has 2 losses; validate each member"):
        mean_loss(members, [{"tokens": tokens, "labels": tokens}])(state.params)
