"""Conversion of GGUF's configuration and weight names, by way of Hugging Face's. No files are read here.

Shape letters: O output width, I input width, H head width.

Source: the GGUF specification and the conversion scripts of llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pure.config import MAX_SIZE, ModelConfig
from pure.interop import hf
from pure.number import is_int

ARCHITECTURES = ("llama", "qwen2", "qwen3")
NEEDED = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
"""Fields without which the shape would be a guess."""

READ = (
    *NEEDED, "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.freq_base",
    "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.yarn_log_multiplier", "vocab_size",
)  # fmt: skip
"""Fields of an architecture that are supported; others are refused."""

INTEGER_FIELDS = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
    "rope.scaling.original_context_length", "vocab_size",
)  # fmt: skip
"""Fields that hold one integer."""

FLOAT_FIELDS = (
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.yarn_log_multiplier",
)
"""Fields that hold one number."""

IGNORED = ("rope.scaling.finetuned",)
"""Fields that change nothing in the mathematics."""

NEUTRAL = (
    ("expert_count", 0),
    ("expert_used_count", 0),
    ("attention.causal", True),
    ("rope.scaling.attn_factor", 1.0),
)
"""Fields that change nothing if they have this value."""

NO_TOKEN = (1 << 32) - 1
"""Id that stands for a special token that does not exist."""

LLAMA3 = (8192, 1.0, 4.0)
"""Llama 3's original context, low and high frequency factor: a file has only the resulting divisors."""

LAYER: Mapping[str, str] = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
TOP: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def weight_name(name: str) -> str:
    """Translates one weight's name into Hugging Face's.

    Raises:
        ValueError: if it is not a name of a supported architecture.

    Example:
        >>> weight_name("blk.3.attn_q.weight")
        'model.layers.3.self_attn.q_proj.weight'
    """
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in TOP:
        return f"{TOP[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in LAYER:
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"
    raise ValueError(f"weight {name!r} is not understood; expected those of a Llama, Qwen2 or Qwen3")


def from_gguf_config(
    fields: Mapping[str, Any],
    *,
    vocabulary: int,
    tied: bool,
    biased: bool = False,
    mlp_biased: bool = False,
    rope_factors: Tensor | None = None,
) -> ModelConfig:
    """Reads the configuration.

    Args:
        fields: the file's fields by name, "general.architecture" and "llama.block_count" among them.
        vocabulary: rows of the embedding.
        tied: True if there is no weight "output".
        biased: True if q, k, v and o have biases. (Qwen2 always has them on q, k, v.)
        mlp_biased: True if the feed-forward block has biases.
        rope_factors: the weight "rope_freqs", [H/2]: Llama 3's divisors of the rotary frequencies, or None.

    Returns:
        ModelConfig.

    Raises:
        ValueError: for an architecture, a field or a kind of rope scaling that is not supported, or a missing
            field.
    """
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"architecture {kind!r} is not supported; expected {', '.join(ARCHITECTURES)}")
    settings = {
        name.removeprefix(f"{kind}."): value for name, value in fields.items() if name.startswith(f"{kind}.")
    }
    settings = {name: value for name, value in settings.items() if (name, value) not in NEUTRAL}
    if unknown := sorted(set(settings) - set(READ) - set(IGNORED)):
        raise ValueError(f"fields not understood: {', '.join(unknown)} of {kind}")
    if missing := [name for name in NEEDED if settings.get(name) is None]:
        raise ValueError(f"{kind}.{missing[0]} is missing; without it the model's shape would be a guess")
    _check_numbers(kind, settings)
    heads, width = settings["attention.head_count"], settings["embedding_length"]
    head_dim = settings.get("attention.key_length") or settings.get("rope.dimension_count") or width // heads
    for name in ("attention.value_length", "rope.dimension_count"):
        if settings.get(name, head_dim) != head_dim:
            raise ValueError(
                f"{kind}.{name} {settings[name]} differs from the head's width {head_dim}; not supported"
            )
    return hf.from_hf_config(
        {
            "model_type": kind,
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": settings["feed_forward_length"],
            "num_hidden_layers": settings["block_count"],
            "num_attention_heads": heads,
            "num_key_value_heads": settings.get("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "max_position_embeddings": settings["context_length"],
            # Stored in float32: the original number has six digits.
            "rms_norm_eps": float(f"{settings['attention.layer_norm_rms_epsilon']:.6g}"),
            "rope_theta": float(settings.get("rope.freq_base", 10000.0)),
            "tie_word_embeddings": tied,
            "attention_bias": biased,
            "mlp_bias": mlp_biased,
            "rope_scaling": _rope_scaling(settings, rope_factors, head_dim),
            "bos_token_id": _token_id(fields, "bos_token_id"),
            "eos_token_id": _token_id(fields, "eos_token_id"),
            "pad_token_id": _token_id(fields, "padding_token_id"),
        }
    )


def llama3_divisors(head_dim: int, theta: float, factor: float) -> Tensor:
    """Computes the divisors of the rotary frequencies in Llama 3's scaling, by its own limits (`LLAMA3`).

        λ_i = 2π θ^(2i/H),   r_i = clip((8192/λ_i - 1) / (4 - 1), 0, 1)
        divisor_i = 1 / ((1 - r_i)/factor + r_i)

    Args:
        head_dim: H.
        theta: θ, base of the wavelengths.
        factor: divisor of the longest wavelengths.

    Returns:
        [H/2] float64, each from 1 to `factor`.

    Example:
        >>> llama3_divisors(4, 1e9, 8.0)
        tensor([1., 8.], dtype=torch.float64)
    """
    original, low, high = LLAMA3
    wavelength = 2 * math.pi * theta ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    blend = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - blend) / factor + blend)


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Permutes the rows of a query or key weight into Hugging Face's order.

    Rotary positions rotate rows in pairs: neighbours in the code of Llama, rows half a head apart in that of
    Hugging Face. Files of the architecture "llama" have the order of the first.

    Args:
        weight: [heads·H, ...]: a matrix, or a bias.
        heads: number of query heads, or of key heads.

    Returns:
        The same shape.

    Example:
        >>> import torch
        >>> unpermute(torch.tensor([0, 1, 2, 3]), 1)
        tensor([0, 2, 1, 3])
    """
    half = weight.shape[0] // heads // 2
    return weight.unflatten(0, (heads, half, 2)).transpose(1, 2).flatten(0, 2)


def _token_id(fields: Mapping[str, Any], name: str) -> int | None:
    """Reads the id of a special token; None if it is absent, -1 or NO_TOKEN."""
    value = fields.get(f"tokenizer.ggml.{name}", NO_TOKEN)
    if not is_int(value):
        raise ValueError(f"tokenizer.ggml.{name}: expected an id, got {str(value)[:60]}")
    return None if value in (-1, NO_TOKEN) else value


def _check_numbers(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuses values that are not numbers, or too large for a model, under the names of the file."""
    for name in INTEGER_FIELDS:
        value = settings.get(name, 1)
        if not is_int(value) or not 0 < value <= MAX_SIZE:
            raise ValueError(
                f"{kind}.{name}: expected a whole number from 1 to {MAX_SIZE:,}, got {str(value)[:60]}"
            )
    for name in FLOAT_FIELDS:
        value = settings.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{kind}.{name}: expected a finite number, got {str(value)[:60]}")


def _rope_scaling(
    settings: Mapping[str, Any], factors: Tensor | None, head_dim: int
) -> dict[str, Any] | None:
    """Converts rope scaling to the value of Hugging Face's `rope_scaling`."""
    kind, factor = settings.get("rope.scaling.type", "none"), settings.get("rope.scaling.factor", 1.0)
    if factors is not None:
        return _llama3_scaling(factors, settings, head_dim)
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(factor)}
    if kind == "yarn" and settings.get("rope.scaling.yarn_log_multiplier", 0.0) == 0.0:
        original = settings.get("rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    raise ValueError(f"rope scaling {kind!r} is not supported; expected none, linear or yarn")


def _llama3_scaling(factors: Tensor, settings: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Finds the `rope_scaling` of these frequency divisors, and refuses those that are not Llama 3's."""
    original, low, high = LLAMA3
    factor = float(f"{float(factors.max()):.5g}")  # rounded to float32 in the file
    expected = llama3_divisors(head_dim, float(settings.get("rope.freq_base", 10000.0)), factor)
    if factors.shape != expected.shape or not torch.allclose(factors.double(), expected, rtol=1e-3):
        raise ValueError("rope_freqs holds factors that are not Llama 3's; no other kind is supported")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": original,
        "low_freq_factor": low,
        "high_freq_factor": high,
    }
