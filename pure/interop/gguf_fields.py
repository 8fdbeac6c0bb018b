"""Conversion of our configuration and weight names to GGUF's: what `pure.interop.gguf` reads. No files here.

A configuration that llama.cpp's Llama, Qwen2 or Qwen3 cannot compute is refused by the field that it lacks.

Shape letters: O output width, I input width, H head width.

Source: the GGUF specification, and the loaders of these three architectures in llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from pure.config import ModelConfig, RopeScaling
from pure.interop import hf
from pure.interop.gguf import ARCHITECTURES, LAYER, LLAMA3, TOP, llama3_divisors

ONLY = (("use_rms_norm", True), ("use_rope", True), ("use_swiglu", True), ("hidden_act", "silu"))
"""Fields that GGUF's architectures fix, and their values."""


def to_gguf_config(config: ModelConfig) -> dict[str, str | int | float]:
    """Converts a configuration to the fields of a GGUF file.

    Args:
        config: of the model.

    Returns:
        Fields by name, "general.architecture" first.

    Raises:
        ValueError: for a configuration that GGUF's architectures do not have; the field is named.

    Example:
        >>> fields = to_gguf_config(ModelConfig(num_hidden_layers=2))
        >>> fields["general.architecture"], fields["llama.block_count"]
        ('llama', 2)
    """
    _refuse_others(config)
    kind, head = hf.model_type(config), config.head_dim or 0
    return {
        "general.architecture": kind,
        f"{kind}.vocab_size": config.vocab_size,
        f"{kind}.block_count": config.num_hidden_layers,
        f"{kind}.context_length": config.max_position_embeddings,
        f"{kind}.embedding_length": config.hidden_size,
        f"{kind}.feed_forward_length": config.intermediate_size,
        f"{kind}.attention.head_count": config.num_attention_heads,
        f"{kind}.attention.head_count_kv": config.num_key_value_heads,
        f"{kind}.attention.key_length": head,
        f"{kind}.attention.value_length": head,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{kind}.rope.dimension_count": head,
        f"{kind}.rope.freq_base": float(config.rope_theta),
        **{f"{kind}.rope.scaling.{name}": value for name, value in _scaling_fields(config).items()},
    }


def rope_divisors(config: ModelConfig) -> Tensor | None:
    """Returns the weight "rope_freqs", Llama 3's divisors of rotary frequencies: [H/2] float32, or None."""
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type != "llama3":
        return None
    return llama3_divisors(config.head_dim or 0, config.rope_theta, scaling.factor).float()


def gguf_name(name: str) -> str:
    """Translates Hugging Face's name of a weight into GGUF's.

    Example:
        >>> gguf_name("model.layers.3.self_attn.q_proj.weight"), gguf_name("lm_head.weight")
        ('blk.3.attn_q.weight', 'output.weight')
    """
    module, ending = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{_invert(TOP)[module]}.{ending}"
    number, part = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{number}.{_invert(LAYER)[part]}.{ending}"


def permute(weight: Tensor, heads: int) -> Tensor:
    """Permutes the rows of a query or key weight into the order of Llama's code: undoes `gguf.unpermute`.

    Args:
        weight: [heads·H, ...], in Hugging Face's order: a matrix, or a bias.
        heads: number of query heads, or of key heads.

    Returns:
        The same shape.

    Example:
        >>> import torch
        >>> permute(torch.tensor([0, 2, 1, 3]), 1)
        tensor([0, 1, 2, 3])
    """
    half = weight.shape[0] // heads // 2
    return weight.unflatten(0, (heads, 2, half)).transpose(1, 2).flatten(0, 2)


def _invert(names: Mapping[str, str]) -> dict[str, str]:
    """{value: key}."""
    return {value: key for key, value in names.items()}


def _refuse_others(config: ModelConfig) -> None:
    """Refuses what none of the architectures computes."""
    for name, value in ONLY:
        if getattr(config, name) != value:
            raise _refusal(name, getattr(config, name), f"{', '.join(ARCHITECTURES)} have only {value!r}")
    kind = hf.model_type(config)
    if kind not in ARCHITECTURES or (kind == "qwen3" and config.attention_bias):
        name = "mlp_bias" if config.mlp_bias else "attention_bias"
        with_ = "qk_norm" if config.qk_norm else "attention_bias 'qkv'"
        raise _refusal(name, getattr(config, name), f"no architecture there has it together with {with_}")
    width = config.num_attention_heads * (config.head_dim or 0)
    if kind == "qwen2" and width != config.hidden_size:
        raise _refusal(
            "head_dim", config.head_dim, "llama.cpp's qwen2 has hidden_size / num_attention_heads alone"
        )


def _scaling_fields(config: ModelConfig) -> dict[str, str | int | float]:
    """The fields of rope scaling; Llama 3's has none, but the weight "rope_freqs"."""
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type == "default":
        return {}
    if scaling.rope_type == "linear":
        return {"type": "linear", "factor": float(scaling.factor)}
    if scaling.rope_type == "llama3":
        _refuse_other_llama3(scaling, hf.model_type(config))
        return {}
    default = RopeScaling(
        rope_type="yarn",
        factor=scaling.factor,
        original_max_position_embeddings=scaling.original_max_position_embeddings,
    )
    for name in ("beta_fast", "beta_slow"):
        if getattr(scaling, name) != getattr(default, name):
            raise _refusal(
                f"rope_scaling.{name}", getattr(scaling, name), f"only {getattr(default, name)} is read"
            )
    own = 0.1 * math.log(scaling.factor) + 1
    if scaling.attention_factor is not None and not math.isclose(scaling.attention_factor, own, rel_tol=1e-6):
        raise _refusal(
            "rope_scaling.attention_factor", scaling.attention_factor, f"llama.cpp computes {own:.6g}"
        )
    return {
        "type": "yarn",
        "factor": float(scaling.factor),
        "original_context_length": scaling.original_max_position_embeddings or 0,
    }


def _refuse_other_llama3(scaling: RopeScaling, kind: str) -> None:
    """Refuses a llama3 scaling that is not Llama 3's own, as a file holds only the divisors, and of Qwen."""
    if kind != "llama":
        raise _refusal("rope_scaling.rope_type", "llama3", f"llama.cpp's {kind} has no divisors")
    names = ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor")
    for name, value in zip(names, LLAMA3, strict=True):
        if getattr(scaling, name) != value:
            raise _refusal(f"rope_scaling.{name}", getattr(scaling, name), f"only Llama 3's {value} is read")


def _refusal(name: str, value: object, why: str) -> ValueError:
    """The error for a field that a GGUF file cannot carry."""
    return ValueError(f"{name} {value!r} cannot be written as GGUF: {why}; take --format safetensors")
