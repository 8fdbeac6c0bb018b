"""Writes a small model as a GGUF file with the gguf package, for the tests of the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from data_pipes.tokenizer.spec import Tokenizer
from pure.config import ModelConfig
from pure.interop import hf
from pure.types import Tree

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


Weights = dict[str, tuple[np.ndarray, Any]]


def write(
    path: Path,
    config: ModelConfig,
    params: Tree,
    tokenizer: Tokenizer,
    rope_factors: Tensor | None = None,
    *,
    tokenizer_fields: Mapping[str, Any] | None = None,
    quantise: Callable[[np.ndarray], tuple[np.ndarray, Any]] | None = None,
    change: Callable[[dict[str, Any], Weights], None] | None = None,
    **further: Any,
) -> Path:
    """Writes a GGUF file, in float32 unless `quantise` is given.

    Args:
        path: path of the file.
        config, params, tokenizer: the model.
        rope_factors: the weight rope_freqs.
        tokenizer_fields: further fields of the tokenizer, without the prefix "tokenizer.".
        quantise: maps a weight to the array that is stored and its GGUF type.
        change: changes {field: value} and {weight: (array, type or None)} in place before they are written.
        further: fields of the architecture, with __ for a dot.
    """
    architecture = hf.model_type(config)
    fields: dict[str, Any] = {"general.architecture": architecture}
    unprefixed = _fields(config, tokenizer)
    unprefixed |= {name.replace("__", "."): value for name, value in further.items()}
    for name, value in unprefixed.items():
        fields[name if name.startswith("tokenizer.") else f"{architecture}.{name}"] = value
    for name, value in (tokenizer_fields or {}).items():
        fields[f"tokenizer.{name}"] = value
    weights: Weights = {} if rope_factors is None else {"rope_freqs.weight": (_array(rope_factors), None)}
    for name, theirs in gguf_names(hf.to_weights(params)).items():
        array = _array(_permute(name, hf.to_weights(params)[name], config))
        weights[theirs] = quantise(array) if quantise else (array, None)
    if change:
        change(fields, weights)
    writer = gguf.GGUFWriter(path, fields.pop("general.architecture"))
    for name, value in fields.items():
        writer.add_key_value(name, value, _type(value))
    for name, (array, stored) in weights.items():
        writer.add_tensor(name, array, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_names(names: Iterable[str]) -> dict[str, str]:
    """Maps each of Hugging Face's names of weights to GGUF's name."""
    found = {}
    for name in names:
        module, ending = name.rsplit(".", 1)
        layer = module.split(".")[2] if module.startswith("model.layers.") else None
        theirs = NAMES[module.split(".", 3)[3] if layer else module]
        found[name] = f"blk.{layer}.{theirs}.{ending}" if layer else f"{theirs}.{ending}"
    return found


def undo_permutation(name: str, x: Tensor, config: ModelConfig) -> Tensor:
    """A weight by its GGUF name, with the rows of q and k in Hugging Face's order again."""
    heads = _heads(name, config)
    return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape) if heads else x


def _fields(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The fields that every file has."""
    spec = tokenizer.spec
    special = {token.id: token.content for token in spec.added_tokens}
    tokens = [special.get(i, token) for i, token in enumerate(spec.vocab)]
    tokens += [token.content for token in spec.added_tokens if token.id >= len(spec.vocab)]
    return {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim or 0,
        "attention.value_length": config.head_dim or 0,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe" if spec.pattern == "llama3" else "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if i in special else 1 for i in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec.merges],
        "tokenizer.ggml.eos_token_id": next(iter(special)),
        "tokenizer.chat_template": "{{ messages }}",
    }


def _heads(name: str, config: ModelConfig) -> int:
    """Number of heads whose rows are permuted in a weight; 0 if its rows are not permuted."""
    if hf.model_type(config) != "llama":
        return 0
    if ".attn_q." in name or ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".attn_k." in name or ".k_proj." in name else 0


def _permute(name: str, x: Tensor, config: ModelConfig) -> Tensor:
    """The rows of q and k in the order of Meta's Llama code, as llama.cpp's conversion stores them."""
    heads = _heads(name, config)
    return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape) if heads else x


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().float().numpy())


def _type(value: Any) -> gguf.GGUFValueType:
    kinds = {
        str: gguf.GGUFValueType.STRING,
        float: gguf.GGUFValueType.FLOAT32,
        int: gguf.GGUFValueType.UINT32,
        bool: gguf.GGUFValueType.BOOL,
        list: gguf.GGUFValueType.ARRAY,
    }
    return kinds[type(value)]
