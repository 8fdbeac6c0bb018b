"""`pure.config`: bad configurations are refused with a fix; presets have the shapes of published models."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import transformers

from pure import tree
from pure.config import PRESETS, ModelConfig, RopeScaling, from_dict, preset, to_dict
from pure.nn.transformer import transformer_spec

BAD_FIELDS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"vocab_size": 0}, "vocab_size: expected a whole number of at least 1, got 0"),
    ({"hidden_size": 2.0}, "hidden_size: expected a whole number of at least 1, got 2.0"),
    ({"num_hidden_layers": True}, "num_hidden_layers: expected a whole number of at least 1, got True"),
    (
        {"max_position_embeddings": "8"},
        "max_position_embeddings: expected a whole number of at least 1, got '8'",
    ),
    ({"rope_theta": 0.0}, "rope_theta: expected a number above 0, got 0.0"),
    ({"rope_theta": "1e4"}, "rope_theta: expected a number below 1e18, got '1e4'"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a number below 1e18, got 'nan'"),
    ({"rope_theta": float("inf")}, "rope_theta: expected a number below 1e18, got 'inf'"),
    ({"rope_theta": 10**400}, "rope_theta: expected a number below 1e18, got '1000"),
    ({"num_hidden_layers": 2**32}, "num_hidden_layers: expected at most 10,000, got 4,294,967,296"),
    ({"vocab_size": 2**31}, "vocab_size: expected at most 2,147,483,647, got 2,147,483,648"),
    ({"head_dim": 2**20}, "head_dim: expected at most 65,536, got 1,048,576"),
    (
        {"hidden_size": 2**30, "num_attention_heads": 1, "num_key_value_heads": 1},
        "head_dim: expected at most 65,536",
    ),
    ({"initializer_range": -0.1}, "initializer_range: expected a number above 0, got -0.1"),
    ({"attention_dropout": 1.0}, "attention_dropout: expected a rate in [0, 1), got 1.0; 0 disables it"),
    ({"hidden_dropout": -0.5}, "hidden_dropout: expected a rate in [0, 1), got -0.5"),
    (
        {"hidden_size": 250},
        "hidden_size 250 is not divisible by num_attention_heads 8: choose a multiple, or give hea",
    ),
    ({"head_dim": 0}, "head_dim: expected a whole number of at least 1, or None, got 0"),
    ({"head_dim": 1.5}, "head_dim: expected a whole number of at least 1, or None, got 1.5"),
    ({"num_key_value_heads": 3}, "num_attention_heads 8 is not divisible by num_key_value_heads 3"),
    ({"head_dim": 7}, "head_dim: rotary positions rotate pairs, so it must be even, got 7"),
    (
        {"use_rope": False, "hidden_size": 255, "head_dim": 4},
        "sinusoidal positions come in pairs: it must be even, got",
    ),
    ({"hidden_act": "swish"}, "hidden_act: expected one of 'silu', 'gelu', 'gelu_tanh', 'relu', got 'swish'"),
    ({"attention_bias": "q"}, "attention_bias: expected True, False or 'qkv' (no bias on o), got 'q'"),
    ({"attention_bias": 1}, "attention_bias: expected True, False or 'qkv' (no bias on o), got 1"),
    ({"use_rope": "false"}, "use_rope: expected true or false, got 'false'"),
    ({"tie_word_embeddings": None}, "tie_word_embeddings: expected true or false, got None"),
    (
        {"use_rope": False, "rope_scaling": RopeScaling()},
        "use_rope is False, so there is nothing to scale; drop one",
    ),
    ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling: expected a RopeScaling or None"),
    ({"eos_token_id": 4096}, "eos_token_id: expected an id below vocab_size 4096 or None, got 4096"),
    ({"pad_token_id": -1}, "pad_token_id: expected an id below vocab_size 4096 or None, got -1"),
    ({"bos_token_id": "0"}, "bos_token_id: expected an id below vocab_size 4096 or None, got '0'"),
)

BAD_SCALING: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"rope_type": "ntk"},
        "rope_scaling.rope_type: expected one of 'default', 'linear', 'llama3', 'yarn', got 'ntk'",
    ),
    ({"rope_type": "linear", "factor": 0.5}, "rope_scaling.factor: expected at least 1, got 0.5"),
    ({"rope_type": "linear", "factor": "2"}, "rope_scaling.factor: expected a number below 1e18, got '2'"),
    ({"factor": 2.0}, "factor 2.0 needs a rope_type: 'linear'"),
    (
        {"rope_type": "llama3", "factor": 2.0},
        "llama3 needs original_max_position_embeddings, the context length of pretraining",
    ),
    (
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": "64"},
        "yarn needs original_max_position_embeddings, the context length of pretraining in tokens; got 64",
    ),
    (
        {"rope_type": "yarn", "factor": 2.0},
        "yarn needs original_max_position_embeddings, the context length of pretraining in tokens",
    ),
    (
        {"rope_type": "llama3", "original_max_position_embeddings": 8, "low_freq_factor": 4.0},
        "llama3 needs 0 < low_freq_factor < high_freq_factor, got 4.0 and 4.0; Llama 3 uses 1 and 4",
    ),
    (
        {"rope_type": "yarn", "original_max_position_embeddings": 8, "beta_slow": 32.0},
        "yarn needs 0 < beta_slow < beta_fast (the paper: 1 and 32), got 32.0 and 32.0",
    ),
    (
        {"rope_type": "yarn", "original_max_position_embeddings": 8, "attention_factor": 0.0},
        "rope_scaling.attention_factor: expected a number above 0, got 0.0",
    ),
)

PUBLISHED = {  # preset -> classes of transformers, and the published number of parameters
    "smollm2_135m": (transformers.LlamaForCausalLM, transformers.LlamaConfig, 134.5e6),
    "llama3.2_1b": (transformers.LlamaForCausalLM, transformers.LlamaConfig, 1.2358e9),
    "qwen2.5_0.5b": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, 494.0e6),
    "qwen3_0.6b": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, 596.0e6),
}


@pytest.mark.parametrize(
    ("fields", "message"), BAD_FIELDS, ids=lambda x: "-".join(x) if isinstance(x, dict) else ""
)
def test_bad_fields_are_refused_with_a_fix(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        ModelConfig(**fields)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"), BAD_SCALING, ids=lambda x: "" if isinstance(x, str) else "-".join(x)
)
def test_bad_rope_scaling_is_refused_with_a_fix(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        RopeScaling(**fields)
    assert message in str(error.value)


def test_an_unknown_field_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        ValueError, match="ModelConfig: unknown field 'hiden_size'; did you mean 'hidden_size'"
    ):
        from_dict({"hiden_size": 8})
    with pytest.raises(
        ValueError, match="ModelConfig: unknown field 'zzz'; the fields are vocab_size, hidden_size"
    ):
        from_dict({"zzz": 8})
    with pytest.raises(ValueError, match="rope_scaling: unknown field 'facto'; did you mean 'factor'"):
        from_dict({"rope_scaling": {"facto": 8}})


def test_an_unknown_preset_is_refused_with_a_list_of_presets() -> None:
    with pytest.raises(ValueError, match=r"preset: expected one of tiny_config, qwen3_0.5b, .* got 'gpt5'$"):
        preset("gpt5")
    with pytest.raises(ValueError, match=r"got 'configs/tiny.py'; for a configuration .* write a JSON file$"):
        preset("configs/tiny.py")


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_read_back_from_json_is_equal(name: str) -> None:
    config = preset(name, hidden_dropout=0.25)
    restored = from_dict(json.loads(json.dumps(to_dict(config))))
    assert restored == config
    assert hash(restored) == hash(config)
    assert config.hidden_dropout == 0.25


def test_model_config_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 8  # type: ignore[misc]
    with pytest.raises(TypeError):
        ModelConfig(8)  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_parameters_of_the_published_models(name: str) -> None:
    model_class, config_class, published = PUBLISHED[name]
    config = preset(name)
    shared_fields = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "tie_word_embeddings",
    )
    with torch.device("meta"):
        peer = model_class(config_class(**{field: getattr(config, field) for field in shared_fields}))
    count = tree.count(transformer_spec(config))
    assert count == sum(p.numel() for p in peer.parameters())
    assert abs(count / published - 1) < 0.001


def test_head_dim_defaults_to_hidden_size_over_heads() -> None:
    assert ModelConfig(hidden_size=48, num_attention_heads=6, num_key_value_heads=1).head_dim == 8
    assert ModelConfig(hidden_size=50, num_attention_heads=6, num_key_value_heads=1, head_dim=4).head_dim == 4
