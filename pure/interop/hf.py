"""Conversion of configurations and parameters to Hugging Face's format and back. No files are read here.

A configuration that Llama, Qwen2 or Qwen3 can express is written as theirs, so that transformers loads it
unchanged; others (LayerNorm, sinusoidal positions, an ungated MLP) have our own field names under the type
"intro2llm".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.config import ModelConfig, from_dict, to_dict
from pure.interop import hf_fields, hf_rope
from pure.plural import count_noun
from pure.types import Tree

ARCHITECTURES: Mapping[str, str] = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
"""Architectures that are written."""

KINDS = (*ARCHITECTURES, "mistral")
"""Architectures that are read. A Mistral without a sliding window is a Llama."""

SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout",
)  # fmt: skip
"""Fields with the same name and meaning on both sides."""

READ = (
    "model_type", "rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings",
    "hidden_act", "attention_bias", "mlp_bias", "hidden_dropout", "layer_types", "use_sliding_window",
    "sliding_window", "max_window_layers",
)  # fmt: skip
"""Fields that are read one by one below. (`hidden_dropout` is ours; transformers ignores it.)"""

ONLY = (("rope_interleaved", False), ("partial_rotary_factor", 1.0))
"""Fields that are refused unless they have this value (or null)."""

NEEDED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
"""Fields without which the shape would be a guess."""

ACTIVATIONS: Mapping[str, str] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh", "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
"""transformers' names -> ours; some are synonyms."""

_LAYER = (
    ("attention/q", "self_attn.q_proj.weight"), ("attention/k", "self_attn.k_proj.weight"),
    ("attention/v", "self_attn.v_proj.weight"), ("attention/o", "self_attn.o_proj.weight"),
    ("attention/q_bias", "self_attn.q_proj.bias"), ("attention/k_bias", "self_attn.k_proj.bias"),
    ("attention/v_bias", "self_attn.v_proj.bias"), ("attention/o_bias", "self_attn.o_proj.bias"),
    ("attention/q_norm", "self_attn.q_norm.weight"), ("attention/k_norm", "self_attn.k_norm.weight"),
    ("attention_norm/scale", "input_layernorm.weight"), ("attention_norm/bias", "input_layernorm.bias"),
    ("feedforward_norm/scale", "post_attention_layernorm.weight"),
    ("feedforward_norm/bias", "post_attention_layernorm.bias"),
    ("feedforward/gate", "mlp.gate_proj.weight"), ("feedforward/up", "mlp.up_proj.weight"),
    ("feedforward/down", "mlp.down_proj.weight"), ("feedforward/gate_bias", "mlp.gate_proj.bias"),
    ("feedforward/up_bias", "mlp.up_proj.bias"), ("feedforward/down_bias", "mlp.down_proj.bias"),
)  # fmt: skip
_TOP = (
    ("embedding", "model.embed_tokens.weight"), ("norm/scale", "model.norm.weight"),
    ("norm/bias", "model.norm.bias"), ("head", "lm_head.weight"),
)  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SCORE = "score.weight"
"""Name of a reward model's head in transformers' classes for sequence classification."""


def weight_names(spec: Tree) -> dict[str, str]:
    """Maps each of our paths to Hugging Face's name.

    Example:
        >>> weight_names({"layers": [{"attention": {"q": 0}}]})
        {'layers/0/attention/q': 'model.layers.0.self_attn.q_proj.weight'}
    """
    return {path: weight_name(path) for path in tree.paths(spec)}


def weight_name(path: str) -> str:
    """Translates one of our paths into Hugging Face's name.

    Raises:
        ValueError: for a path that is no weight of a language model.

    Example:
        >>> weight_name("layers/0/attention/q")
        'model.layers.0.self_attn.q_proj.weight'
    """
    match path.split("/", 2):
        case ["layers", number, rest]:
            prefix, name = f"model.layers.{number}.", dict(_LAYER).get(rest)
        case _:
            prefix, name = "", dict(_TOP).get(path)
    if name is None:
        raise ValueError(
            f"{path or 'the params'}: no weight of a language model; merge adapters, if these are any"
        )
    return prefix + name


def to_weights(params: Tree) -> dict[str, Tensor]:
    """Converts params to {Hugging Face name: tensor}, without copies."""
    names = weight_names(params)
    return {names[path]: leaf for path, leaf in zip(tree.paths(params), tree.leaves(params), strict=True)}


def from_weights(spec: Tree, weights: Mapping[str, Tensor]) -> Tree:
    """Converts {Hugging Face name: tensor} to params, and checks them against the specification.

    Args:
        spec: tree of ParamSpec.
        weights: by name. A tied head may be included, if it equals the embedding, or replace it (safetensors
            stores shared tensors under one name); rotary frequencies are ignored, as they are computed.

    Returns:
        The same tensors, nested as `spec`.

    Raises:
        ValueError: for a missing or unknown weight, one of another shape, or a tied head that differs; it is
            named.
    """
    names = weight_names(spec)
    tied = "head" not in names
    if tied and EMBEDDING not in weights and HEAD in weights:
        weights = {EMBEDDING if name == HEAD else name: x for name, x in weights.items()}
    expected = set(names.values())
    unknown = {name for name in weights if not name.endswith("rotary_emb.inv_freq")} - expected
    if tied:
        unknown.discard(HEAD)
    if tied and HEAD in weights and not torch.equal(weights[HEAD], weights[EMBEDDING]):
        raise ValueError(
            f"tie_word_embeddings is true, and {HEAD} differs from {EMBEDDING}: transformers 5 computes with "
            f"both, 4 with the second alone; set it to false in config.json, or remove {HEAD} from the file"
        )
    missing = expected - set(weights)
    if unknown == {SCORE} and missing <= {HEAD}:
        raise ValueError(
            f"these are the weights of a reward model: {SCORE} gives a score, and no next token; give a "
            "language model (a reward model is for --reward)"
        )
    if unknown or missing:
        raise ValueError(
            f"weights do not fit the configuration: missing {list_names(missing)}; not understood "
            f"{list_names(unknown)}; check model_type, tie_word_embeddings and the biases in config.json"
        )
    check_shapes(spec, names, weights, "the weights belong to another configuration")
    return tree.map_with_path(lambda path, _: weights[names[path]], spec)


def with_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the prefix "model." to the names of a base model, which was saved without its head.

    Args:
        weights: by name: "model.layers.0...", or "layers.0..." of a base model.

    Returns:
        The same tensors, by the names of a language model.

    Raises:
        ValueError: if the names have another prefix, such as that of a larger model or a wrapper.

    Example:
        >>> list(with_prefix({"embed_tokens.weight": torch.zeros(1), "norm.weight": torch.zeros(1)}))
        ['model.embed_tokens.weight', 'model.norm.weight']
    """
    end = "embed_tokens.weight"
    prefixes = sorted(name.removesuffix(end) for name in weights if name.endswith(end))
    if not prefixes or "model." in prefixes:
        return dict(weights)
    if prefixes[0]:
        raise ValueError(
            f"the weights' names begin with {prefixes[0]!r}, expected 'model.': they are part of a larger "
            "model or of a wrapper; save the language model alone (of PEFT: after merge_and_unload)"
        )
    heads = ("lm_head.weight", "score.weight")
    return {name if name in heads else f"model.{name}": x for name, x in weights.items()}


def check_sizes(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Compares the sizes of a configuration with the weights, before a model is built from it.

    A damaged config.json can ask for 10^9 layers; the existing weights limit every size.

    Args:
        config: the model's.
        weights: by Hugging Face's names.

    Raises:
        ValueError: if a size differs.
    """
    parts = [name.split(".") for name in weights if name.startswith("model.layers.")]
    numbers = {int(part[2]) for part in parts if len(part) > 2 and part[2].isascii() and part[2].isdigit()}
    count = max(numbers, default=-1) + 1
    if config.num_hidden_layers != count:
        raise ValueError(
            f"num_hidden_layers is {config.num_hidden_layers}, but the weights have "
            f"{count_noun(count, 'layer')}"
        )
    width, head_dim, first = config.hidden_size, config.head_dim or 0, "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (config.vocab_size, width),
        f"{first}.self_attn.q_proj.weight": (config.num_attention_heads * head_dim, width),
        f"{first}.self_attn.k_proj.weight": (config.num_key_value_heads * head_dim, width),
        f"{first}.mlp.up_proj.weight": (config.intermediate_size, width),
    }
    for name, shape in shapes.items():
        if name in weights and tuple(weights[name].shape) != shape:
            raise ValueError(
                f"{name}: expected shape {shape}, got {tuple(weights[name].shape)}; the weights belong to "
                "another configuration"
            )


def check_shapes(spec: Tree, names: Mapping[str, str], weights: Mapping[str, Tensor], why: str) -> None:
    """Refuses weights of another shape.

    Args:
        spec: tree of ParamSpec.
        names: our path -> the weight's name.
        weights: by name.
        why: the likely reason, at the end of the message.

    Raises:
        ValueError: for the first weight of another shape; it is named.
    """
    for path, part in zip(tree.paths(spec), tree.leaves(spec), strict=True):
        expected, shape = tuple(part.shape), tuple(weights[names[path]].shape)
        if shape != expected:
            raise ValueError(f"{names[path]}: expected shape {expected}, got {shape}; {why}")


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """Converts a ModelConfig to the fields of config.json."""
    kind = model_type(config)
    if kind == "intro2llm":
        return {"model_type": kind, **to_dict(config)}
    fields: dict[str, Any] = {
        "architectures": [f"{ARCHITECTURES[kind]}ForCausalLM"],
        "model_type": kind,
        **{name: getattr(config, name) for name in SHARED},
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(config.hidden_act, config.hidden_act),
        **hf_rope.write(config),
    }
    if kind != "qwen2":
        fields["attention_bias"] = bool(config.attention_bias)
    if kind == "llama":
        fields["mlp_bias"] = config.mlp_bias
    if config.hidden_dropout:
        fields["hidden_dropout"] = config.hidden_dropout
    return {**fields, "dtype": "float32"}


def from_hf_config(fields: Mapping[str, Any]) -> ModelConfig:
    """Converts the fields of config.json to a ModelConfig, as transformers 5 and older versions read them.

    An absent field has transformers' default for that model_type. The first of several `eos_token_id` is read
    (`stages.models.special_tokens` reads all).

    Raises:
        ValueError: for an architecture or a field that would change the mathematics and is not supported, or
            if a field is missing without which the shape would be a guess.
    """
    kind = fields.get("model_type")
    if kind == "intro2llm":
        skipped = ("model_type", "dtype", "torch_dtype")
        return from_dict({name: value for name, value in fields.items() if name not in skipped})
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"model_type {kind!r} is not supported; expected {', '.join(KINDS)}")
    _refuse_unsupported(kind, fields)
    values = {name: fields[name] for name in SHARED if fields.get(name) is not None}
    for name, value in hf_fields.DEFAULTS[kind].items():
        if name not in fields:
            values[name] = value
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        values[name] = hf_fields.token_id(fields, name, kind)
    act = fields.get("hidden_act", "silu")
    return from_dict(
        {
            **values,
            "tie_word_embeddings": hf_fields.flag(fields, "tie_word_embeddings"),
            "hidden_act": ACTIVATIONS.get(act, act) if isinstance(act, str) else act,
            "hidden_dropout": fields.get("hidden_dropout") or 0.0,
            "attention_bias": "qkv" if kind == "qwen2" else hf_fields.flag(fields, "attention_bias"),
            "mlp_bias": hf_fields.flag(fields, "mlp_bias"),
            "qk_norm": kind == "qwen3",
            **hf_rope.read(fields),
        }
    )


def model_type(config: ModelConfig) -> str:
    """Returns the Hugging Face architecture that computes the same, or "intro2llm" if none does."""
    if not (config.use_rms_norm and config.use_rope and config.use_swiglu):
        return "intro2llm"
    if not config.qk_norm and config.attention_bias != "qkv":
        return "llama"
    if config.mlp_bias or (config.qk_norm and config.attention_bias == "qkv"):
        return "intro2llm"
    return "qwen3" if config.qk_norm else "qwen2"


def _refuse_unsupported(kind: str, fields: Mapping[str, Any]) -> None:
    """Refuses unknown, unsupported and missing fields."""
    hf_fields.refuse_unknown(fields, {*SHARED, *READ, *(name for name, _ in ONLY)})
    if missing := [name for name in NEEDED if fields.get(name) is None]:
        raise ValueError(f"{', '.join(missing)} is missing; without it the model's shape would be a guess")
    for name, value in ONLY:
        if fields.get(name) not in (None, value):
            raise ValueError(f"{name} {fields[name]!r} is not supported, only {value!r}")
    supported = {
        "llama": ("attention_bias", "mlp_bias"),
        "qwen2": ("attention_bias",),
        "qwen3": ("attention_bias",),
    }
    for name in ("attention_bias", "mlp_bias"):
        if name not in supported.get(kind, ()) and fields.get(name):
            raise ValueError(
                f"{name} {fields[name]!r} is not supported: transformers gives a {kind} no such biases"
            )
    hf_fields.refuse_window(kind, fields)


def list_names(names: set[str]) -> str:
    """Lists the first three names of a set for a message."""
    if not names:
        return "none"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
