"""config.json: published ones, every form of a field, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.position import attention_factor, rope_frequencies
from stages.models import language_model
from tests.outside import models, published
from tests.outside.form import Form

LLAMA = {**published.LLAMA3, **published.SIZE_8B, "max_position_embeddings": 8192}
QWEN2 = {**published.QWEN2, **published.SIZE_0_5B}
QWEN3 = {**published.QWEN3, "hidden_size": 1024, "intermediate_size": 3072}
MISTRAL = published.MISTRAL
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPE_PARAMETERS = {"rope_theta": 500000.0, **published.LLAMA3_ROPE}


def _transformers_values(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Values that transformers reads from the full configuration, and the logits of a small model like it."""
    (folder / "config.json").write_text(json.dumps(fields))
    fields_read = _theirs(transformers.AutoConfig.from_pretrained(folder))
    return {**fields_read, "logits": models.peer_logits(models.write(folder, models.shrink(fields)))}


def _our_values(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same of our code."""
    return {**_ours(hf.from_hf_config(fields)), "logits": models.our_logits(folder)}


def _theirs(config: Any) -> dict[str, Any]:
    """Fields of transformers' configuration; of several ids the first, and -1 means None."""
    rotary = LlamaRotaryEmbedding(config=config)
    ids = {}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(config, name)
        value = value[0] if isinstance(value, list) else value
        ids[name] = None if value == -1 else value
    fields = {
        name: getattr(config, name)
        for name in (
            "rms_norm_eps",
            "tie_word_embeddings",
            "max_position_embeddings",
            "num_key_value_heads",
            "attention_dropout",
        )
    }
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {**ids, **fields, "head_dim": head_dim, "rope": rotary.inv_freq, "scale": rotary.attention_scaling}


def _ours(config: ModelConfig) -> dict[str, Any]:
    """The same fields of our configuration."""
    names = (
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "rms_norm_eps",
        "tie_word_embeddings",
        "max_position_embeddings",
        "num_key_value_heads",
        "attention_dropout",
        "head_dim",
    )
    fields = {name: getattr(config, name) for name in names}
    return {**fields, "rope": rope_frequencies(config), "scale": attention_factor(config.rope_scaling)}


def _right(kind: str, name: str, fields: Mapping[str, Any]) -> Form:
    """A form whose small model gives transformers' logits."""
    return Form(
        kind,
        name,
        "transformers",
        partial(_transformers_values, fields),
        partial(_our_values, fields),
        tolerance=1e-4,
    )


def _changed(name: str, base: Mapping[str, Any], **changes: Any) -> Form:
    """A published configuration with a few fields changed or added."""
    return _right("configuration", name, {**base, **changes})


def _drop_fields(name: str, base: Mapping[str, Any], field: str) -> Form:
    """A published configuration that lacks a field."""
    return _right("configuration", name, {key: value for key, value in base.items() if key != field})


def _damaged(
    name: str, message: str, base: Mapping[str, Any] = LLAMA, /, text: str = "", **changes: Any
) -> Form:
    """A small model whose config.json was changed afterwards, which is refused."""

    def write(folder: Path) -> None:
        models.write(folder, models.shrink(base))
        fields = {**models.shrink(base), **changes}
        (folder / "config.json").write_bytes((text or json.dumps(fields)).encode("utf-8", "surrogatepass"))

    return Form(
        "configuration", name, "published", write, language_model.load, refused=rf"config\.json.*({message})"
    )


def _write_with_byte_order_mark(folder: Path) -> torch.Tensor:
    """A config.json with a byte-order mark, which transformers does not read: logits of the file before."""
    expected = models.peer_logits(models.write(folder, models.shrink(LLAMA)))
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return expected


PUBLISHED: tuple[Form, ...] = (
    *(_right("published", name, fields) for name, fields in published.PUBLISHED.items()),
    *(_damaged(name, message, fields)._replace(kind="published")
      for name, (fields, message) in published.REFUSED.items()),
    _damaged("Qwen/Qwen2-VL-2B-Instruct", "model_type 'qwen2_vl' is not supported", QWEN2,
             model_type="qwen2_vl")._replace(kind="published"),
)  # fmt: skip

HARMLESS: Mapping[str, Any] = {
    "temperature": 0.6, "top_p": 0.9, "top_k": 50, "do_sample": True, "max_length": 4096, "repetition_penalty": 1.1,
    "bad_words_ids": None, "output_attentions": False, "output_hidden_states": False, "torchscript": False,
    "use_bfloat16": False, "chunk_size_feed_forward": 0, "is_decoder": False, "task_specific_params": None,
    "pruned_heads": {}, "return_dict": True, "add_cross_attention": False, "tie_encoder_decoder": False,
    "is_encoder_decoder": False, "tokenizer_class": "PreTrainedTokenizerFast", "attn_implementation": "sdpa",
    "quantization_config": None, "auto_map": {"AutoModel": "modeling.Model"}, "model_max_length": 8192,
    "id2label": {"0": "a"}, "label2id": {"a": 0}, "gradient_checkpointing": False, "is_causal": True,
}  # fmt: skip

READ: tuple[Form, ...] = (
    _changed("bookkeeping and generation", LLAMA, **HARMLESS),
    _drop_fields("Llama without ids has transformers' defaults", LLAMA, "eos_token_id"),
    _drop_fields("Qwen3 without head_dim has 128", {**QWEN3, "num_attention_heads": 8}, "head_dim"),
    _changed("no key-value heads: as many as heads", LLAMA, num_key_value_heads=None),
    _changed("no tied embeddings said: untied", QWEN2, tie_word_embeddings=False),
    _changed("Llama with biases", LLAMA, attention_bias=True, mlp_bias=True),
    _changed("Qwen3 with biases", QWEN3, attention_bias=True),
    _changed("Qwen2 with attention_bias, which it has always", QWEN2, attention_bias=True),
    _changed("activation swish", LLAMA, hidden_act="swish"),
    _changed("activation gelu_new", LLAMA, hidden_act="gelu_new"),
    _changed("rope_parameters of transformers 5", LLAMA, rope_theta=None, rope_scaling=None,
             rope_parameters=ROPE_PARAMETERS),
    _changed("rope_theta that is an int", LLAMA, rope_theta=500000),
    _changed("rope type under its old name", LLAMA, rope_scaling={"type": "linear", "factor": 2}),
    _changed("rope type under both names", LLAMA, rope_scaling={**published.LLAMA3_ROPE, "type": "llama3"}),
    _changed("rope type default", LLAMA, rope_scaling={"type": "default"}),
    _changed("yarn", QWEN2, rope_scaling=YARN),
    _changed("yarn, attention_factor", QWEN2, rope_scaling={**YARN, "attention_factor": 1.5}),
    _changed("yarn, ramp", QWEN2, rope_scaling={**YARN, "beta_fast": 16, "beta_slow": 2, "truncate": True}),
    _changed("yarn, mscale and mscale_all_dim", QWEN2, rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
    _changed("yarn without its first context", QWEN2, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
    _changed("first context outside rope_scaling", QWEN2, rope_scaling={"rope_type": "yarn", "factor": 4.0},
             original_max_position_embeddings=64, max_position_embeddings=128),
    _changed("window asked for from a layer that is not there", QWEN2, use_sliding_window=True, max_window_layers=24),
    _changed("window as long as the longest row", MISTRAL, sliding_window=32768),
    _changed("layer_types all full", QWEN3, layer_types=["full_attention"] * 2, num_hidden_layers=2),
    Form("configuration", "byte-order mark", "published", _write_with_byte_order_mark, models.our_logits,
         tolerance=1e-4),
)  # fmt: skip

REFUSED: tuple[Form, ...] = (
    _damaged("unknown field", "not understood: logit_scale", logit_scale=2.0),
    _damaged("Granite's multipliers", "not understood: embedding_multiplier", embedding_multiplier=12.0),
    _damaged("quantised", "quantization_config.*dequantise", quantization_config={"quant_method": "bitsandbytes"}),
    _damaged("looks both ways", "is_causal None", is_causal=None),
    _damaged("window in use", "sliding_window 16 is not", QWEN2, use_sliding_window=True, sliding_window=16,
             max_window_layers=1),
    _damaged("window by layer", "layer_types: 'sliding_attention'", QWEN3,
             layer_types=["full_attention", "sliding_attention"]),
    _damaged("Mistral with biases", "attention_bias True", {**MISTRAL, "sliding_window": None}, attention_bias=True),
    _damaged("half of a head rotates", "partial_rotary_factor 0.5", partial_rotary_factor=0.5),
    _damaged("per-layer configuration", "not understood: per_layer_config", per_layer_config={"0": {"head_dim": 4}}),
    _damaged("dynamic scaling", "rope_type: expected one of .* got 'dynamic'",
             rope_scaling={"type": "dynamic", "factor": 2.0}),
    _damaged("longrope", "got 'longrope'", rope_scaling={"type": "longrope", "short_factor": [1.0] * 4}),
    _damaged("mrope", "mrope", QWEN2, rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]}),
    _damaged("mrope as default", "rope_scaling.mrope_section", QWEN2,
             rope_scaling={"rope_type": "default", "mrope_section": [1, 1, 2]}),
    _damaged("a factor without a type", "factor 4.0 without a rope_type", rope_scaling={"factor": 4.0}),
    _damaged("linear without factor", "rope_scaling.factor is missing", rope_scaling={"type": "linear"}),
    _damaged("llama3 without its wavelengths", "rope_scaling.low_freq_factor is missing",
             rope_scaling={"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}),
    _damaged("yarn without truncation", "rope_scaling.truncate", rope_scaling={**YARN, "truncate": False}),
    _damaged("two rope types", "rope_type is 'llama3', type 'yarn'",
             rope_scaling={**published.LLAMA3_ROPE, "type": "yarn"}),
    _damaged("two scalings", "rope_scaling.factor is 8.0, rope_parameters.factor 4.0",
             rope_scaling=published.LLAMA3_ROPE, rope_parameters={**published.LLAMA3_ROPE, "factor": 4.0}),
    _damaged("two first contexts", "original_max_position_embeddings is 64", rope_scaling=published.LLAMA3_ROPE,
             original_max_position_embeddings=64),
    _damaged("no model_type", "model_type None", model_type=None),
    _damaged("model_type a list", "model_type", model_type=["llama"]),
    _damaged("a size that is missing", "hidden_size is missing", hidden_size=None),
    _damaged("a size as text", "hidden_size: expected a whole number", hidden_size="32"),
    _damaged("a size below 1", "num_hidden_layers: expected a whole number of at least 1", num_hidden_layers=-1),
    _damaged("more layers than can be", "num_hidden_layers: expected at most", num_hidden_layers=2**32),
    _damaged("a size of many digits", "expected at most|not valid JSON", vocab_size=10**300),
    _damaged("a head wider than can be", "head_dim: expected at most", head_dim=2**40),
    _damaged("rope_theta as text", "rope_theta: expected a number", rope_theta="10000"),
    _damaged("rope_theta endless", "rope_theta: expected a number", rope_theta=float("inf")),
    _damaged("epsilon not a number", "rms_norm_eps: expected a number below", rms_norm_eps=float("nan")),
    _damaged("tied as text", "tie_word_embeddings: expected true or false", tie_word_embeddings="false"),
    _damaged("ends that are no ids", "eos_token_id: expected an id or a list of ids", eos_token_id=[1, None]),
    _damaged("an end beyond the vocabulary", "eos_token_id: expected an id below", eos_token_id=5000),
    _damaged("no JSON", "not valid JSON, line 1", text="{'model_type': 'llama'}"),
    _damaged("a number of 5,000 digits", "not valid JSON", text='{"vocab_size": ' + "9" * 5000 + "}"),
    _damaged("a list", "expected a JSON object", text="[]"),
    _damaged("lists in lists", "not valid JSON", text="[" * 100_000),
)  # fmt: skip


def _write_too_many_layers(folder: Path) -> None:
    """Write a model whose config.json has more layers than the weights."""
    models.write(folder, models.shrink(LLAMA))
    fields = {**models.shrink(LLAMA), "num_hidden_layers": 9000}
    (folder / "config.json").write_text(json.dumps(fields))


FORMS = (*PUBLISHED, *READ, *REFUSED,
         Form("configuration", "more layers than the weights", "published", _write_too_many_layers, language_model.load,
              refused="num_hidden_layers is 9000, but the weights have 2 layers"))  # fmt: skip
