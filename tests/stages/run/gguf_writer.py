"""A small model of ours written as a GGUF file, by the gguf package."""

from __future__ import annotations

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


def write(
    path: Path,
    config: ModelConfig,
    params: Tree,
    tokenizer: Tokenizer,
    rope_factors: Tensor | None = None,
    *,
    words: dict[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Writes it in float32, with further fields of the architecture, and (`words`) of the tokenizer."""
    kind = hf.model_type(config)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim or 0)
    writer.add_value_length(config.head_dim or 0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    for name, value in fields.items():
        writer.add_key_value(f"{kind}.{name.replace('__', '.')}", value, _type(value))
    spec = tokenizer.spec
    special = {token.id: token.content for token in spec.added_tokens}
    tokens = [special.get(i, token) for i, token in enumerate(spec.vocab)]
    tokens += [token.content for token in spec.added_tokens if token.id >= len(spec.vocab)]
    writer.add_tokenizer_model("gpt2")
    written = {"ggml.eos_token_id": next(iter(special)), "chat_template": "{{ messages }}", **(words or {})}
    writer.add_tokenizer_pre("llama-bpe" if spec.pattern == "llama3" else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in spec.merges])
    for name, value in written.items():
        writer.add_key_value(f"tokenizer.{name}", value, _type(value))
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", _array(rope_factors))
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, x in hf.to_weights(params).items():
        module, ending = name.rsplit(".", 1)
        layer = module.split(".")[2] if module.startswith("model.layers.") else None
        theirs = NAMES[module.split(".", 3)[3] if layer else module]
        if kind == "llama" and theirs in heads:
            x = _permuted(x, heads[theirs])
        writer.add_tensor(f"blk.{layer}.{theirs}.{ending}" if layer else f"{theirs}.{ending}", _array(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(x: Tensor, heads: int) -> Tensor:
    """Rows in the order of Llama's own code, as llama.cpp's conversion brings them."""
    half = x.shape[0] // heads // 2
    return x.reshape(heads, 2, half, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().float().numpy())


def _type(value: Any) -> gguf.GGUFValueType:
    kinds = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32, int: gguf.GGUFValueType.UINT32}
    return gguf.GGUFValueType.BOOL if isinstance(value, bool) else kinds[type(value)]
