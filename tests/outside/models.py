"""Small models that transformers writes and reads, for the forms of configurations, weights and GGUF
files."""

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
    """A byte-level one of 282 ids."""
    return tokenizers.train(["def add(left, right): return left + right"] * 2, 282)


def shrunken(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same fields with small sizes; contexts keep their ratio, ids become small."""
    most = fields["max_position_embeddings"]
    small = {**fields, **SMALL}
    if fields.get("num_key_value_heads"):
        small["num_key_value_heads"] = (
            4 if fields["num_key_value_heads"] == fields["num_attention_heads"] else 2
        )
    if fields.get("head_dim"):
        small["head_dim"] = (
            8 if fields["head_dim"] * fields["num_attention_heads"] == fields["hidden_size"] else 12
        )
    if fields.get("sliding_window"):
        small["sliding_window"] = max(1, fields["sliding_window"] * LENGTH // most)
    if fields.get("max_window_layers"):
        small["max_window_layers"] = 2 if fields["max_window_layers"] >= fields["num_hidden_layers"] else 1
    for name in ("rope_scaling", "rope_parameters"):
        if (fields.get(name) or {}).get("original_max_position_embeddings"):
            small[name] = {**fields[name], "original_max_position_embeddings": 16}
    for number, name in enumerate(("bos_token_id", "eos_token_id", "pad_token_id")):
        if isinstance(fields.get(name), list):
            small[name] = [20 + number, 30]
        elif (fields.get(name) or -1) > 2:
            small[name] = 20 + number
    return small


def write(folder: Path, fields: Mapping[str, Any]) -> torch.nn.Module:
    """Writes config.json as it is given, random weights as transformers names them, and a tokenizer.

    Returns:
        transformers' model.
    """
    (folder / "config.json").write_text(json.dumps(fields))
    model = make(transformers.AutoConfig.from_pretrained(folder))
    save_file(named(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
    tokenizers.save(tokenizer(), folder)
    return model


def make(config: Any) -> torch.nn.Module:
    """A model of transformers with weights drawn anew, in float32: biases and norms as well."""
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.ndim == 1))
    return model.eval()


def named(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its weights by name, a tied head left out."""
    tied = model.config.tie_word_embeddings
    return {
        name: x.detach().clone() for name, x in model.state_dict().items() if not (tied and "lm_head" in name)
    }


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits of transformers for a few tokens."""
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits


def ours(path: Path) -> torch.Tensor:
    """Our logits for them."""
    loaded = language_model.load(path, dtype=torch.float32)
    with torch.no_grad():
        return loaded.model.forward(loaded.params, torch.tensor(TOKENS))
