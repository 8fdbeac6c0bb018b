"""Small models written by transformers, for the cases (`Form`) of configurations, weights and GGUF files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from data_pipes import tokenizer as tokenizers
from data_pipes.tokenizer import Tokenizer
from stages.models import language_model

VOCABULARY, LENGTH = 300, 128
SMALL: Mapping[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
                            "num_hidden_layers": 2, "num_attention_heads": 4,
                            "max_position_embeddings": LENGTH}  # fmt: skip
TOKENS = [[5, 250, 17, 3, 99, 180, 44, 7, 261, 12] * 3]


@functools.cache
def tokenizer() -> Tokenizer:
    """A byte-level tokenizer of 282 ids."""
    return tokenizers.train(["def add(left, right): return left + right"] * 2, 282)


def shrink(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the sizes by small ones, so that each choice between attention variants stays the same.

    Grouped heads stay grouped, a head_dim unequal to hidden_size / heads stays unequal, a sliding window
    keeps its ratio to the context, and ids above 2 become ids of the small vocabulary.
    """
    old_length = fields["max_position_embeddings"]
    small = {**fields, **SMALL}
    if fields.get("num_key_value_heads"):
        is_grouped = fields["num_key_value_heads"] != fields["num_attention_heads"]
        small["num_key_value_heads"] = 2 if is_grouped else 4
    if fields.get("head_dim"):
        is_default = fields["head_dim"] * fields["num_attention_heads"] == fields["hidden_size"]
        small["head_dim"] = 8 if is_default else 12
    if fields.get("sliding_window"):
        small["sliding_window"] = max(1, fields["sliding_window"] * LENGTH // old_length)
    if fields.get("max_window_layers"):
        small["max_window_layers"] = 2 if fields["max_window_layers"] >= fields["num_hidden_layers"] else 1
    for name in ("rope_scaling", "rope_parameters"):
        if (fields.get(name) or {}).get("original_max_position_embeddings"):
            small[name] = {**fields[name], "original_max_position_embeddings": 16}
    for number, name in enumerate(("bos_token_id", "eos_token_id", "pad_token_id")):
        if isinstance(fields.get(name), list):
            small[name] = [20 + number, 30]
        elif fields.get(name) is not None and fields[name] > 2:
            small[name] = 20 + number
    return small


def write(folder: Path, fields: Mapping[str, Any]) -> torch.nn.Module:
    """Write config.json as given, random weights in transformers' format, and a tokenizer.

    Returns:
        The model of transformers.
    """
    (folder / "config.json").write_text(json.dumps(fields))
    model = random_model(transformers.AutoConfig.from_pretrained(folder))
    save_file(named_weights(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizers.save(tokenizer(), folder)
    return model


def random_model(config: Any) -> torch.nn.Module:
    """A model of transformers in float32 with random weights; biases and norms vary around 1."""
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            mean = 1.0 if parameter.ndim == 1 else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + mean)
    return model.eval()


def named_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name, without a tied head."""
    tied = model.config.tie_word_embeddings
    return {
        name: x.detach().clone() for name, x in model.state_dict().items() if not (tied and "lm_head" in name)
    }


def peer_logits(model: torch.nn.Module) -> torch.Tensor:
    """transformers' logits for TOKENS."""
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


def our_logits(path: Path) -> torch.Tensor:
    """Our logits for TOKENS."""
    loaded = language_model.load(path, dtype=torch.float32)
    with torch.no_grad():
        return loaded.model.forward(loaded.params, torch.tensor(TOKENS))
