"""Published config.json fields of widely used models, from their public pages.

Each is a family's fields, updated with the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "initializer_range": 0.02,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": True, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 32000,
}  # fmt: skip
LLAMA3_ROPE: Mapping[str, Any] = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA3: Mapping[str, Any] = {
    **LLAMA, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128001,
    "vocab_size": 128256, "rope_theta": 500000.0, "num_key_value_heads": 8, "transformers_version": "4.40.0.dev0",
}  # fmt: skip
LLAMA31: Mapping[str, Any] = {
    **LLAMA3,
    "mlp_bias": False,
    "max_position_embeddings": 131072,
    "rope_scaling": LLAMA3_ROPE,
    "transformers_version": "4.43.0.dev0",
}
END_IDS = [128001, 128008, 128009]
SIZE_8B: Mapping[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
SMOLLM2: Mapping[str, Any] = {
    **LLAMA, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0,
    "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False, "rope_interleaved": False,
    "rope_theta": 100000, "tie_word_embeddings": True, "transformers_version": "4.40.1", "vocab_size": 49152,
}  # fmt: skip
JS_CONFIG: Mapping[str, Any] = {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}
QWEN2: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151643, "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 131072, "max_window_layers": 28,
    "num_hidden_layers": 28, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
SIZE_0_5B: Mapping[str, Any] = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                           "num_attention_heads": 14, "num_key_value_heads": 2, "max_window_layers": 24,
                           "tie_word_embeddings": True}  # fmt: skip
SIZE_1_5B: Mapping[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SIZE_7B: Mapping[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}
QWEN3: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
MISTRAL: Mapping[str, Any] = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 32768, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000, **SIZE_8B,
}  # fmt: skip

PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "huggyllama/llama-7b": {**LLAMA, **SIZE_8B, "intermediate_size": 11008, "max_position_embeddings": 2048,
                            "max_sequence_length": 2048, "pad_token_id": 0, "rms_norm_eps": 1e-06,
                            "transformers_version": "4.28.0.dev0"},
    "first conversions of Llama 7B": {**LLAMA, **SIZE_8B, "architectures": ["LLaMAForCausalLM"], "pad_token_id": -1,
                                      "intermediate_size": 11008, "max_sequence_length": 2048, "bos_token_id": 0,
                                      "eos_token_id": 1, "max_position_embeddings": 2048},
    "meta-llama/Llama-2-7b-hf": {**LLAMA, **SIZE_8B, "_name_or_path": "meta-llama/Llama-2-7b-hf",
                                 "intermediate_size": 11008, "max_position_embeddings": 4096,
                                 "num_key_value_heads": 32, "transformers_version": "4.31.0.dev0"},
    "meta-llama/Meta-Llama-3-8B": {**LLAMA3, **SIZE_8B, "max_position_embeddings": 8192},
    "meta-llama/Meta-Llama-3-8B-Instruct": {**LLAMA3, **SIZE_8B, "max_position_embeddings": 8192,
                                            "eos_token_id": 128009},
    "meta-llama/Llama-3.1-8B-Instruct": {**LLAMA31, **SIZE_8B, "eos_token_id": END_IDS},
    "meta-llama/Llama-3.2-1B": {**LLAMA31, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                                "num_attention_heads": 32, "head_dim": 64, "tie_word_embeddings": True,
                                "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}},
    "unsloth/Llama-3.2-1B-Instruct": {**LLAMA31, "_name_or_path": "meta-llama/Llama-3.2-1B-Instruct",
                                      "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                                      "num_attention_heads": 32, "head_dim": 64, "tie_word_embeddings": True,
                                      "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}, "eos_token_id": 128009,
                                      "pad_token_id": 128004, "unsloth_fixed": True, "unsloth_version": "2024.9"},
    "meta-llama/Llama-3.2-3B-Instruct": {**LLAMA31, "hidden_size": 3072, "intermediate_size": 8192,
                                         "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128,
                                         "tie_word_embeddings": True, "eos_token_id": END_IDS,
                                         "rope_scaling": {**LLAMA3_ROPE, "factor": 32.0}},
    "meta-llama/Llama-3.3-70B-Instruct": {**LLAMA31, "hidden_size": 8192, "intermediate_size": 28672,
                                          "num_hidden_layers": 80, "num_attention_heads": 64, "head_dim": 128,
                                          "eos_token_id": END_IDS, "transformers_version": "4.47.0.dev0"},
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": {**LLAMA31, **SIZE_8B, "transformers_version": "4.43.0.dev0"},
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": {**LLAMA, "attention_bias": False, "hidden_size": 2048,
                                           "intermediate_size": 5632, "max_position_embeddings": 2048,
                                           "num_attention_heads": 32, "num_hidden_layers": 22,
                                           "num_key_value_heads": 4, "rope_theta": 10000.0,
                                           "transformers_version": "4.35.0"},
    "01-ai/Yi-6B": {**LLAMA, "attention_bias": False, "hidden_size": 4096, "intermediate_size": 11008,
                    "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
                    "num_key_value_heads": 4, "pad_token_id": 0, "rope_theta": 5000000.0, "vocab_size": 64000,
                    "transformers_version": "4.34.0"},
    "deepseek-ai/deepseek-coder-6.7b-base": {**LLAMA, "bos_token_id": 32013, "eos_token_id": 32014,
                                             "hidden_size": 4096, "intermediate_size": 11008,
                                             "max_position_embeddings": 16384, "num_attention_heads": 32,
                                             "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-06,
                                             "rope_scaling": {"factor": 4.0, "type": "linear"}, "rope_theta": 100000,
                                             "transformers_version": "4.33.1", "vocab_size": 32256},
    "HuggingFaceTB/SmolLM2-135M": {**SMOLLM2, "hidden_size": 576, "initializer_range": 0.041666666666666664,
                                   "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30,
                                   "num_key_value_heads": 3},
    "HuggingFaceTB/SmolLM2-360M-Instruct": {**SMOLLM2, "hidden_size": 960, "intermediate_size": 2560,
                                            "num_attention_heads": 15, "num_hidden_layers": 32,
                                            "num_key_value_heads": 5, "bos_token_id": 1, "eos_token_id": 2,
                                            "pad_token_id": 2, "transformers.js_config": JS_CONFIG},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {**SMOLLM2, "hidden_size": 2048, "intermediate_size": 8192,
                                            "num_attention_heads": 32, "num_hidden_layers": 24, "bos_token_id": 1,
                                            "eos_token_id": 2, "pad_token_id": 2, "num_key_value_heads": 32,
                                            "rope_theta": 130000, "transformers.js_config": JS_CONFIG},
    "Qwen/Qwen2-0.5B": {**QWEN2, **SIZE_0_5B},
    "Qwen/Qwen2-7B-Instruct": {**QWEN2, **SIZE_7B, "eos_token_id": 151645, "max_position_embeddings": 32768,
                               "transformers_version": "4.41.2"},
    "Qwen/Qwen2.5-0.5B": {**QWEN2, **SIZE_0_5B, "max_position_embeddings": 32768, "sliding_window": 32768,
                          "use_mrope": False},
    "Qwen/Qwen2.5-0.5B-Instruct": {**QWEN2, **SIZE_0_5B, "eos_token_id": 151645, "max_position_embeddings": 32768,
                                   "sliding_window": 32768, "max_window_layers": 21,
                                   "transformers_version": "4.43.1"},
    "Qwen/Qwen2.5-1.5B": {**QWEN2, **SIZE_1_5B, "use_mrope": False},
    "Qwen/Qwen2.5-7B": {**QWEN2, **SIZE_7B, "use_mrope": False},
    "Qwen/Qwen2.5-7B-Instruct, YaRN as its card says": {
        **QWEN2, **SIZE_7B, "eos_token_id": 151645, "max_position_embeddings": 32768,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    "Qwen/Qwen2.5-Coder-7B-Instruct": {**QWEN2, **SIZE_7B, "eos_token_id": 151645, "max_position_embeddings": 32768,
                                       "transformers_version": "4.44.0"},
    "Qwen/Qwen2.5-Math-7B": {**QWEN2, **SIZE_7B, "max_position_embeddings": 4096, "sliding_window": 4096,
                             "rope_theta": 10000, "use_mrope": False},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {**QWEN2, **SIZE_1_5B, "bos_token_id": 151646,
                                                  "max_window_layers": 21, "rope_theta": 10000,
                                                  "sliding_window": 4096, "tie_word_embeddings": False,
                                                  "use_mrope": False, "transformers_version": "4.44.0"},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": {**QWEN2, **SIZE_7B, "rope_theta": 10000, "sliding_window": 4096,
                                                "use_mrope": False, "transformers_version": "4.44.0"},
    "Qwen/Qwen3-0.6B": {**QWEN3, "hidden_size": 1024, "intermediate_size": 3072},
    "Qwen/Qwen3-1.7B": {**QWEN3, "hidden_size": 2048, "intermediate_size": 6144},
    "Qwen/Qwen3-4B": {**QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32,
                      "num_hidden_layers": 36, "max_window_layers": 36},
    "Qwen/Qwen3-8B": {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32,
                      "num_hidden_layers": 36, "max_window_layers": 36, "tie_word_embeddings": False},
    "mistralai/Mistral-7B-v0.3": {**MISTRAL, "rope_theta": 1000000.0, "sliding_window": None, "vocab_size": 32768,
                                  "transformers_version": "4.42.0.dev0"},
}  # fmt: skip
"""Configurations that must be read."""

REFUSED: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "mistralai/Mistral-7B-v0.1": (MISTRAL, "sliding_window [0-9]+ is not supported.*set max_position_embeddings to"),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": ({**QWEN2, **SIZE_1_5B, "is_causal": False}, "is_causal False"),
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": (
        {**QWEN2, **SIZE_7B, "quantization_config": {"bits": 4, "quant_method": "gptq"}},
        "quantization_config: quantised weights are not read"),
}  # fmt: skip
"""Configurations that must be refused, each with the pattern of the message."""
