"""Fields of a Hugging Face config.json that have no effect, and those that must be refused.

transformers stores every field of config.json and computes with few of them. A field that is not read is
accepted if it is for bookkeeping or generation, or if it is null, false or empty; others are refused by name.
The fields in MUST_BE_TRUE, in contrast, change the mathematics if they are false.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pure.number import is_int

BOOKKEEPING = frozenset((
    "architectures", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path",
    "_commit_hash", "auto_map", "tokenizer_class", "finetuning_task", "task_specific_params",
    "problem_type", "id2label", "label2id", "num_labels", "_num_labels", "base_model_name_or_path",
    "is_llama_config", "transformers.js_config", "use_cache", "return_dict", "output_attentions",
    "output_hidden_states", "torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward",
    "pretraining_tp", "is_decoder", "gradient_checkpointing", "use_flash_attention",
    "_flash_attn_2_enabled", "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "_attn_implementation_autoset", "experts_implementation", "_experts_implementation",
    "_experts_implementation_internal", "keys_to_ignore_at_inference", "model_max_length",
    "max_sequence_length", "seq_length", "trust_remote_code", "classifier_dropout",
))  # fmt: skip
"""Fields about the file, its origin, memory and speed; all values are accepted."""

GENERATION = frozenset((
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "do_sample", "early_stopping",
    "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p", "top_h",
    "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty", "encoder_repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "output_logits", "return_dict_in_generate",
    "forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "remove_invalid_values",
    "renormalize_logits", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
    "penalty_alpha", "max_time", "stop_strings", "guidance_scale", "cache_implementation",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "decoder_start_token_id", "sep_token_id",
))  # fmt: skip
"""Fields of generation that older files have here; transformers drops them on reading."""

MUST_BE_TRUE = ("is_causal", "use_rope", "use_rms_norm", "use_swiglu")
"""Fields that change the mathematics unless they are true or absent."""

QUANTIZED = ("quantization_config", "compression_config")

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"bos_token_id": 1, "eos_token_id": 2},
    "mistral": {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
}
"""transformers' defaults of absent fields, where they differ from ours."""


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses every field that may change the mathematics and is not read.

    Args:
        fields: of config.json.
        known: names that are read.

    Raises:
        ValueError: for such fields; they are named.

    Example:
        >>> refuse_unknown({"use_mrope": False, "unsloth_version": "2024.9", "rope_scaling": None}, ())
    """
    for name in QUANTIZED:
        if fields.get(name):
            raise ValueError(
                f"{name}: quantised weights are not read; take the model's unquantised folder, or dequantise "
                "it in transformers (model.dequantize(), then model.save_pretrained)"
            )
    for name in MUST_BE_TRUE:
        if name in fields and fields[name] is not True:
            raise ValueError(f"{name} {fields[name]!r} is not supported, only true")
    unread = [name for name in fields if name not in known and name not in MUST_BE_TRUE]
    unknown = sorted(name for name in unread if not (_has_no_effect(name) or _is_empty(fields[name])))
    if unknown:
        raise ValueError(f"fields not understood: {', '.join(unknown)}; remove those that change nothing")


def refuse_window(kind: str, fields: Mapping[str, Any]) -> None:
    """Refuses a sliding window of attention that is shorter than max_position_embeddings.

    A longer window masks nothing. Qwen's models have one only if `use_sliding_window` is true, from layer
    `max_window_layers` on.

    Args:
        kind: the model_type.
        fields: of config.json.

    Raises:
        ValueError: for such a window, a layer type other than full attention, or a field of another type.

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
    default = None if kind == "llama" else 4096  # that of transformers
    window, longest = fields.get("sliding_window", default), fields.get("max_position_embeddings")
    if kind == "llama" and window is None and flag(fields, "use_sliding_window"):
        raise ValueError("use_sliding_window true is not supported: a llama has no window; set it to false")
    for name, value in (("sliding_window", window), ("max_window_layers", fields.get("max_window_layers"))):
        if value is not None and not (is_int(value) and value >= 0):
            raise ValueError(f"{name}: expected a whole number or null, got {str(value)[:60]!r}")
    if not window or not _uses_window(kind, fields):
        return
    if not isinstance(longest, int) or window < longest:
        raise ValueError(
            f"sliding_window {window} is not supported: it is shorter than max_position_embeddings "
            f"{longest}, so it masks tokens; set max_position_embeddings to {window} in config.json, so that "
            "it masks none"
        )


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Reads a field that is true or false; absent and null are false.

    Raises:
        ValueError: for other values, such as the text "false".
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return bool(value)


def token_id(fields: Mapping[str, Any], name: str, kind: str) -> Any:
    """Reads the id of a special token, or the first of several; null, -1 and an empty list are None.

    Raises:
        ValueError: for a list with other values than ids.
    """
    value = fields.get(name, DEFAULTS.get(kind, {}).get(name))
    if isinstance(value, list):
        if not all(is_int(item) for item in value):
            raise ValueError(f"{name}: expected an id or a list of ids, got {value!r}")
        value = value[0] if value else None
    return None if value == -1 else value


def _uses_window(kind: str, fields: Mapping[str, Any]) -> bool:
    """Returns True if some layer uses the window.

    An absent `use_sliding_window` means true, for Qwen's models false. These use the window in the layers
    from `max_window_layers` on (28 in transformers if absent), unless `layer_types` lists each layer's kind
    of attention; `refuse_window` has refused lists with a sliding window.
    """
    if not kind.startswith("qwen"):
        return fields.get("use_sliding_window") is None or flag(fields, "use_sliding_window")
    if not flag(fields, "use_sliding_window"):
        return False
    first, count = fields.get("max_window_layers", 28), fields.get("num_hidden_layers")
    has_layers = isinstance(first, int) and isinstance(count, int) and first < count
    return has_layers and fields.get("layer_types") is None


def _has_no_effect(name: str) -> bool:
    """Returns True if a field is for bookkeeping or generation."""
    return name in BOOKKEEPING or name in GENERATION or name.startswith("unsloth_")


def _is_empty(value: Any) -> bool:
    """Returns True for null, false and empty values."""
    return value is None or value is False or value in ([], {}, "")
