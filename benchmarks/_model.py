"""The small model of the comparisons, ours and as transformers' Llama, and its training step.

5.8M parameters: hidden size 256, 6 layers, 8 heads, 4 key-value heads, intermediate size 768, vocabulary
4096.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.transformer import transformer
from pure.transform.jit import jit
from pure.types import Tree
from stages.stage import Stage

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def small_config(**changes: Any) -> ModelConfig:
    """Return the configuration of the model, with `changes` (fields of ModelConfig) applied."""
    fields: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 1024,
    }
    return ModelConfig(**(fields | changes))


def small_llama(config: ModelConfig, **options: Any) -> Any:
    """Return transformers' Llama of that size, with its own random weights; `options` go to LlamaConfig."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=True,
        **options,
    )
    return LlamaForCausalLM(settings)


def count_parameters() -> int:
    """Number of the model's parameters."""
    return tree.count(transformer(small_config()).spec)


def describe_setup() -> str:
    """Threads, device, version of torch, and size of the model, in one line."""
    return (
        f"{torch.get_num_threads()} threads, {DEVICE}, torch {torch.__version__}, "
        f"{count_parameters():,} parameters"
    )


def step_fn(stage: Stage, params: Tree | None, next_batch: Callable[[], Tree]) -> Callable[[], Tensor]:
    """Return a function that takes one compiled training step, donating the state, and returns its loss.

    Args:
        stage: the stage whose step is taken.
        params: initial parameters; None lets the stage initialise them.
        next_batch: returns the batch of the next step.
    """
    step = jit(stage.step, donate=True, regions=True)
    state = stage.init(random.key(0, device=DEVICE), params)

    def take_step() -> Tensor:
        nonlocal state
        state = step(state, next_batch())
        return state.metrics["loss"]

    return take_step
