"""Configurations and batches with which models that several processes compute are compared with plain ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import linear_cross_entropy
from pure.loss.log_probability import linear_log_probabilities
from pure.nn.transformer import transformer
from pure.types import Model, Tree

SIZES: Mapping[str, int] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip

CONFIGS: Mapping[str, ModelConfig] = {
    "llama": ModelConfig(**SIZES),
    "qwen3": ModelConfig(**SIZES, tie_word_embeddings=False, qk_norm=True),
    "gpt2": ModelConfig(
        **SIZES, use_rms_norm=False, use_rope=False, use_swiglu=False, attention_bias=True, mlp_bias=True
    ),
    "dropout": ModelConfig(
        **SIZES, attention_dropout=0.1, hidden_dropout=0.1, attention_bias=True, mlp_bias=True
    ),
}


def batch(seed: int = 0, rows: int = 3, length: int = 11) -> dict[str, Tensor]:
    """Tokens, ragged labels, and segments of packed rows."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 32, (rows, length), generator=draw)
    return {
        "tokens": torch.randint(0, 32, (rows, length), generator=draw),
        "labels": torch.where(torch.rand(rows, length, generator=draw) < 0.3, -100, labels),
        "segment_ids": torch.randint(0, 3, (rows, length), generator=draw).sort(1).values,
    }


def noisy_params(model: Model) -> Tree:
    """Params of which no leaf is constant, as zeros and ones are in a first state."""
    return _noisy_params(model.config)


@functools.cache
def _noisy_params(config: ModelConfig) -> Tree:
    """Those of the plain model of a configuration, drawn once."""

    def add_noise(path: str, x: Tensor) -> Tensor:
        return x + 0.1 * random.normal(random.fold_in(random.key(5), sum(path.encode())), x.shape)

    return tree.map_with_path(add_noise, transformer(config).init(random.key(0)))


def summed_loss(model: Model, params: Tree, *, dropout: bool, packed: bool, chunk: int | None = None) -> Any:
    """Cross-entropy with smoothing and z-loss, and log-probabilities with entropies at a temperature."""
    data = batch()
    key = random.key(3) if dropout else None
    segments = data["segment_ids"] if packed else None
    hidden = model.hidden(params, data["tokens"], key=key, segment_ids=segments)
    options: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 1e-2, "chunk": chunk}
    first = linear_cross_entropy(params, hidden, data["labels"], logits=model.logits, **options)
    second = linear_log_probabilities(
        params, hidden, data["labels"], logits=model.logits, temperature=0.7, entropy=True
    )
    return first.sum + second.logps.sum() + 2 * second.entropy.sum()


def distance(a: Tree, b: Tree) -> float:
    """The distance of two trees, relative to the second."""
    pairs = list(zip(tree.leaves(a), tree.leaves(b), strict=True))
    difference = math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in pairs))
    return difference / math.sqrt(sum(y.double().square().sum().item() for _, y in pairs))
