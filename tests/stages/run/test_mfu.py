"""The FLOPs of a model, counted by torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.run import mfu


@pytest.mark.parametrize("tied", [False, True])
def test_the_formula_counts_the_products_that_are_made(tied: bool) -> None:
    """Forward and backward of naive attention, which computes all T² scores, as the formula says."""
    model = transformer(
        ModelConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                    num_key_value_heads=2, max_position_embeddings=8, tie_word_embeddings=tied),
        backend="naive",
    )  # fmt: skip
    params = tree.map(lambda x: x.requires_grad_(), model.init(random.key(0)))
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.forward(params, tokens).sum().backward()
    assert counter.get_total_flops() == mfu.flops_per_token(model, 8) * tokens.numel()


def test_utilisation_is_a_share_of_a_measured_peak() -> None:
    assert mfu.peak(torch.float32, torch.device("cpu")) > 1e8
    model = transformer(ModelConfig(vocab_size=32, hidden_size=16, num_attention_heads=2, num_key_value_heads=2))
    assert 0 < mfu.utilisation(model, 8, torch.float32, torch.device("cpu")) < 1


def test_a_dtype_that_the_processor_lacks_does_not_lower_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mfu, "_seconds", lambda factor: 2.0 if factor.dtype == torch.float16 else 0.5)
    assert mfu.peak(torch.float16, torch.device("cpu")) == mfu.peak(torch.float32, torch.device("cpu")) == 4 * 1024**3
