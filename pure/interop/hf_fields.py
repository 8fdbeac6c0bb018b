"""Fields of a Hugging Face config.json that change nothing, and those that must be refused.

transformers keeps whatever stands in config.json and computes with few of it. A field passes here if it is
bookkeeping or of generation, or if it is null, false or empty; any other that is not read is refused by name.
A few fields change the mathematics by being false: they are named in ON.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

BOOKKEEPING = frozenset((
    "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash",
    "auto_map", "tokenizer_class", "finetuning_task", "task_specific_params", "problem_type", "id2label", "label2id",
    "num_labels", "_num_labels", "base_model_name_or_path", "is_llama_config", "transformers.js_config",
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "chunk_size_feed_forward", "pretraining_tp", "is_decoder", "gradient_checkpointing",
    "use_flash_attention", "_flash_attn_2_enabled", "attn_implementation", "_attn_implementation",
    "_attn_implementation_internal", "_attn_implementation_autoset", "experts_implementation",
    "_experts_implementation", "_experts_implementation_internal", "keys_to_ignore_at_inference",
    "model_max_length", "max_sequence_length", "seq_length", "trust_remote_code", "classifier_dropout",
))  # fmt: skip
"""Fields about the file, its origin, its memory and its speed, whatever they say."""

GENERATION = frozenset((
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p",
    "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty", "length_penalty",
    "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "output_logits", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids",
    "remove_invalid_values", "renormalize_logits", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "penalty_alpha", "max_time", "stop_strings", "guidance_scale", "cache_implementation",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind",
    "target_lookbehind", "decoder_start_token_id", "sep_token_id",
))  # fmt: skip
"""Fields of generation that older files have here; transformers drops them on reading."""

ON = ("is_causal", "use_rope", "use_rms_norm", "use_swiglu")
"""Fields that change the mathematics unless they are true or absent."""

QUANTIZED = ("quantization_config", "compression_config")

ABSENT: Mapping[str, Mapping[str, Any]] = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
"""What transformers takes for a field that does not stand in the file, where that is not our default."""


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses every field that may change the mathematics and is not read.

    Args:
        fields: of config.json.
        known: names that are read.

    Raises:
        ValueError: naming them.

    Example:
        >>> refuse_unknown({"use_mrope": False, "unsloth_version": "2024.9", "rope_scaling": None}, ())
    """
    if found := [name for name in QUANTIZED if fields.get(name)]:
        raise ValueError(
            f"{found[0]}: quantised weights are not read; take the model's unquantised folder, or dequantise it in "
            "transformers (model.dequantize(), then model.save_pretrained)"
        )
    for name in ON:
        if name in fields and fields[name] is not True:
            raise ValueError(f"{name} {fields[name]!r} is not supported, only true")
    unknown = sorted(
        name
        for name, value in fields.items()
        if name not in known and name not in ON and not (_changes_nothing(name) or _is_nothing(value))
    )
    if unknown:
        raise ValueError(f"fields not understood: {', '.join(unknown)}; remove those that change nothing")


def refuse_window(kind: str, fields: Mapping[str, Any]) -> None:
    """Refuses attention through a sliding window that hides something.

    A window as long as the longest row hides nothing. Qwen's models have one only if `use_sliding_window` is
    true, and only from layer `max_window_layers` on.

    Args:
        kind: the model_type.
        fields: of config.json.

    Raises:
        ValueError: with what to do.

    Example:
        >>> refuse_window("qwen2", {"use_sliding_window": False, "sliding_window": 32768})
    """
    layers = fields.get("layer_types")
    if layers is not None and not isinstance(layers, list):
        raise ValueError(f"layer_types: expected a list, got {layers!r}")
    if other := [name for name in layers or () if name not in ("full_attention", "attention")]:
        raise ValueError(
            f"layer_types: {other[0]!r} is not supported; only full_attention is (no sliding window)"
        )
    default = None if kind == "llama" else 4096
    window, most = fields.get("sliding_window", default), fields.get("max_position_embeddings")
    if kind == "llama" and window is None and flag(fields, "use_sliding_window"):
        raise ValueError("use_sliding_window true is not supported: a llama has no window; set it to false")
    for name, value in (("sliding_window", window), ("max_window_layers", fields.get("max_window_layers"))):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{name}: expected a whole number or null, got {str(value)[:60]!r}")
    if not window or not _windowed(kind, fields):
        return
    if not isinstance(most, int) or window < most:
        raise ValueError(
            f"sliding_window {window} is not supported, it hides tokens of rows up to max_position_embeddings {most}; "
            f"set max_position_embeddings to {window} in config.json: in rows up to there it hides nothing"
        )


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Reads a field that is true or false; absent and null are false.

    Raises:
        ValueError: for anything else, such as the text "false".
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return bool(value)


def token_id(fields: Mapping[str, Any], name: str, kind: str) -> Any:
    """Reads the id of a special token; of several the first. No id is null, -1 or an empty list.

    Raises:
        ValueError: for a list that holds something else than numbers.
    """
    value = fields.get(name, ABSENT.get(kind, {}).get(name))
    if isinstance(value, list):
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            raise ValueError(f"{name}: expected an id or a list of ids, got {value!r}")
        value = value[0] if value else None
    return None if value == -1 else value


def _windowed(kind: str, fields: Mapping[str, Any]) -> bool:
    """Whether the window that is given is used."""
    if fields.get("use_sliding_window") is not None or kind.startswith("qwen"):
        if not flag(fields, "use_sliding_window"):
            return False
        first, count = fields.get("max_window_layers", 28), fields.get("num_hidden_layers")
        inside = isinstance(first, int) and isinstance(count, int) and first < count
        return not kind.startswith("qwen") or (inside and fields.get("layer_types") is None)
    return True


def _changes_nothing(name: str) -> bool:
    """Whether a field is bookkeeping or of generation."""
    return name in BOOKKEEPING or name in GENERATION or name.startswith("unsloth_")


def _is_nothing(value: Any) -> bool:
    """Null, false and empty."""
    return value is None or value is False or value in ([], {}, "")
