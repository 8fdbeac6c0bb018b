"""transformers computes the same from the same file, and what is not understood is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pure import random, tree
from pure.config import PRESETS, ModelConfig, preset
from pure.interop import hf
from pure.nn.transformer import transformer

SMALL = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "llama tied, biases, a wide head": {"attention_bias": True, "mlp_bias": True, "head_dim": 8},
    "llama gelu, linear rope": {
        "hidden_act": "gelu_tanh",
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "llama 3": {"rope_scaling": LLAMA3, "rope_theta": 5e5, "tie_word_embeddings": False},
    "qwen2": {"attention_bias": "qkv", "tie_word_embeddings": False, "rms_norm_eps": 1e-5},
    "qwen2 tied, yarn": {"attention_bias": "qkv", "rope_scaling": YARN},
    "qwen3": {"qk_norm": True, "head_dim": 8, "tie_word_embeddings": False},
    "qwen3 tied, bias, multi-query": {"qk_norm": True, "attention_bias": True, "num_key_value_heads": 1},
}
OURS: dict[str, dict[str, Any]] = {
    "layer norm": {"use_rms_norm": False},
    "sinusoidal": {"use_rope": False},
    "ungated": {"use_swiglu": False},
    "llama with q, k, v biases and an mlp bias": {"attention_bias": "qkv", "mlp_bias": True},
    "qwen3 with q, k, v biases": {"attention_bias": "qkv", "qk_norm": True},
}


def config(**changes: Any) -> ModelConfig:
    from pure.config import from_dict

    return from_dict(SMALL | changes)


def tokens() -> torch.Tensor:
    return random.randint(random.key(9), (2, 20), 0, 61).long()


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_loads_it_and_gives_equal_logits_and_gradients(name: str, tmp_path: Path) -> None:
    ours = transformer(config(**CONFIGS[name]))
    params = ours.init(random.key(1))
    params = tree.map(lambda x: x + 0.1 if x.ndim == 1 else x, params)  # so that biases and norms are seen
    (tmp_path / "config.json").write_text(json.dumps(hf.to_hf_config(ours.config)))
    save_file(hf.to_weights(params), str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert type(theirs).__name__.lower().startswith(name.split()[0])
    expected = theirs.eval()(tokens()).logits
    torch.testing.assert_close(ours.forward(params, tokens()), expected, rtol=1e-4, atol=1e-5)
    expected.square().mean().backward()
    grads = hf.to_weights(torch.func.grad(lambda p: ours.forward(p, tokens()).square().mean())(params))
    expected_grads = {name: x.grad for name, x in theirs.named_parameters()}
    assert grads.keys() == expected_grads.keys()
    for weight, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[weight], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_files_of_transformers_round_trip(name: str, tmp_path: Path) -> None:
    ours = config(**CONFIGS[name])
    fields = hf.to_hf_config(ours)
    kind = transformers.AutoConfig.for_model(**fields)
    theirs = transformers.AutoModelForCausalLM.from_config(kind)
    theirs.save_pretrained(tmp_path)
    read = hf.from_hf_config(json.loads((tmp_path / "config.json").read_text()))
    assert read == ours
    model = transformer(read)
    params = hf.from_weights(model.spec, load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        expected = theirs.eval()(tokens()).logits
    torch.testing.assert_close(model.forward(params, tokens()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_goes_there_and_back(name: str) -> None:
    assert hf.from_hf_config(json.loads(json.dumps(hf.to_hf_config(preset(name))))) == preset(name)
    assert hf.model_type(preset(name)) != "intro2llm"


@pytest.mark.parametrize("name", OURS)
def test_configs_that_no_architecture_expresses_keep_our_format(name: str, tmp_path: Path) -> None:
    ours = config(**OURS[name])
    fields = hf.to_hf_config(ours)
    assert fields["model_type"] == "intro2llm"
    assert hf.from_hf_config(json.loads(json.dumps(fields))) == ours
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="intro2llm"):
        transformers.AutoConfig.from_pretrained(tmp_path)


def test_dropout_survives_and_the_older_rope_fields_are_read() -> None:
    dropping = config(hidden_dropout=0.1, attention_dropout=0.2)
    assert hf.from_hf_config(hf.to_hf_config(dropping)) == dropping
    fields = hf.to_hf_config(config())
    del fields["rope_parameters"]
    older = fields | {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 77.0}
    read = hf.from_hf_config(older)
    assert read.rope_theta == 77.0
    assert read.rope_scaling is not None
    assert read.rope_scaling.factor == 2.0
    assert hf.from_hf_config(fields | {"eos_token_id": [3, 4]}).eos_token_id == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported; expected llama, qwen2, qwen3"),
        ({"logit_scale": 2.0}, "not understood: logit_scale"),
        ({"use_sliding_window": True}, "use_sliding_window true is not supported"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"layer_types": ["sliding_attention"]}, "no sliding window"),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ({"hidden_act": "swish2"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "truncate"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
    ],
)
def test_fields_that_would_change_the_mathematics_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hf.from_hf_config(hf.to_hf_config(config()) | changes)


def test_weights_must_fit_the_configuration() -> None:
    model = transformer(config())
    weights = hf.to_weights(model.init(random.key(0)))
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"missing {name}; not understood none"):
        hf.from_weights(model.spec, {key: x for key, x in weights.items() if key != name})
    with pytest.raises(ValueError, match=r"not understood model\.layers\.0\.extra"):
        hf.from_weights(model.spec, {**weights, "model.layers.0.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"expected shape \(40, 24\), got \(24, 40\)"):
        hf.from_weights(model.spec, {**weights, name: weights[name].T})


def test_a_tied_head_may_be_there_if_it_is_the_embedding() -> None:
    model = transformer(config())
    weights = hf.to_weights(model.init(random.key(0)))
    embedding = weights["model.embed_tokens.weight"]
    same = {**weights, "lm_head.weight": embedding.clone(), "model.rotary_emb.inv_freq": torch.zeros(3)}
    assert tree.structure(hf.from_weights(model.spec, same)) == tree.structure(model.spec)
    with pytest.raises(ValueError, match=r"tie_word_embeddings is true, and lm_head\.weight"):
        hf.from_weights(model.spec, {**weights, "lm_head.weight": embedding + 1})
