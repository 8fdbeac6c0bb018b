"""`estimate` predicts the memory of a training step without running it, here against real steps."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from pure import optim, random
from pure.adapt.lora import lora
from pure.adapt.lora_config import LoRAConfig
from pure.adapt.qlora import quantize_layers
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.memory import peak
from stages.run.estimate import estimate
from stages.sft import sft

CONFIG = ModelConfig(
    vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
)
OPTIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "in pieces": {"accumulation": 2},
    "adapters": {"adapters": LoRAConfig(rank=2)},
    "adapters, four bits": {"adapters": LoRAConfig(rank=2), "quantized": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_estimate_equals_the_measured_peak_of_a_step(name: str) -> None:
    options = OPTIONS[name]
    estimated = estimate(CONFIG, optim.adamw(1e-3), rows=4, length=32, dtype=torch.float32, **options)
    model = transformer(CONFIG)
    params = model.init(random.key(0))
    if config := options.get("adapters"):
        base = quantize_layers(params) if options.get("quantized") else params
        model = lora(model, base, **vars(config))
        params = model.init(random.key(1))
    a_stage = sft(model, optim.adamw(1e-3), accumulation=options.get("accumulation", 1))
    batch = {
        "tokens": torch.ones(4, 32, dtype=torch.int64),
        "labels": torch.ones(4, 32, dtype=torch.int64),
        "batch_position": torch.arange(4),
    }
    measured = peak(a_stage.step, a_stage.init(random.key(0), params), batch)
    assert abs(estimated.rest - measured) < 0.01 * measured


MEASURE = """
import re, torch
from pure import optim, random
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from stages.run.estimate import estimate
from stages.sft import sft
torch.set_num_threads(1)
config = ModelConfig(vocab_size=4096, hidden_size=256, num_hidden_layers=2, max_position_embeddings=256)
def read_status(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])
def batch(rows):
    ones = torch.ones(rows, 256, dtype=torch.int64)
    return {"tokens": ones, "labels": ones.clone(), "batch_position": torch.arange(rows)}
made = sft(transformer(config), optim.adamw(1e-3))
state = made.init(random.key(0))
made.step(state, batch(1))  # what torch itself holds
estimated = estimate(config, optim.adamw(1e-3), rows=8, length=256, dtype=torch.float32)
open("/proc/self/clear_refs", "w").write("5")  # resets the peak to the memory in use
before = read_status("VmRSS")
made.step(state, batch(8))
print(read_status("VmHWM") - before, estimated.rest)
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak of resident memory"
)
def test_the_estimate_is_within_a_tenth_of_the_resident_memory() -> None:
    """The allocator returns every freed block to the system, so that gaps between blocks do not count."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    answer = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, env=environment
    )
    measured, estimated = map(int, answer.stdout.split())
    assert abs(estimated - measured) < 0.1 * measured, (estimated, measured)
