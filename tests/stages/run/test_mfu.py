"""The FLOPs of a model, against torch's counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.run import mfu


@pytest.mark.parametrize("tied", [False, True])
def test_the_formula_equals_torchs_flop_counter(tied: bool) -> None:
    """Forward and backward of naive attention, which computes all T² scores, as the formula assumes."""
    model = transformer(
        ModelConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=8,
            tie_word_embeddings=tied,
        ),
        backend="naive",
    )
    params = tree.map(lambda x: x.requires_grad_(), model.init(random.key(0)))
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model.forward(params, tokens).sum().backward()
    assert counter.get_total_flops() == mfu.flops_per_token(model, 8) * tokens.numel()


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA H200", 989.0), ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0), ("NVIDIA A40", 149.7), ("NVIDIA B200", 2250.0),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A1000", None), ("NVIDIA GeForce RTX 4090", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_peak_is_the_published_one_or_none(name: str, tflops: float | None) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert mfu.peak(name, dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))
    assert mfu.peak(name, torch.float32) is None


def test_without_a_peak_tflops_are_reported_and_no_mfu() -> None:
    model = transformer(
        ModelConfig(vocab_size=32, hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
    )
    flops = mfu.model_flops(model, 8, torch.bfloat16, torch.device("cpu"))
    assert flops == mfu.ModelFlops(mfu.flops_per_token(model, 8), None)
    assert mfu.speed(flops, 1000.0) == {"tflops": pytest.approx(flops.flops * 1e-9)}
    assert mfu.speed(flops._replace(peak=1e12), 1000.0)["mfu"] == pytest.approx(flops.flops * 1e-9)
