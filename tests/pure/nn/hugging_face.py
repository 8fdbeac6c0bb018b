"""Small random models of transformers with our params: the map of names, written out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pure import tree
from pure.config import ModelConfig
from pure.nn.position import sinusoidal
from pure.types import Tree

ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
FEEDFORWARD = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def peer(config: ModelConfig, family: str) -> nn.Module:
    """The model of that family ("Llama", "Qwen2", "Qwen3") with this configuration, randomly initialised."""
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "hidden_act",
    )
    fields: dict[str, Any] = {name: getattr(config, name) for name in names}
    fields |= {"rope_parameters": rope_parameters(config), "attn_implementation": "eager"}
    if family != "Qwen2":
        fields["attention_bias"] = bool(config.attention_bias)
    if family == "Llama":
        fields["mlp_bias"] = config.mlp_bias
    kind = getattr(transformers, f"{family}Config")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(kind(**fields))
        for parameter in model.parameters():  # biases and scales too, which start as 0 and 1
            nn.init.normal_(parameter, float(parameter.ndim == 1), 0.1)
    return model.train()


def rope_parameters(config: ModelConfig) -> dict[str, Any]:
    """The rotary part of transformers' configuration."""
    scaling = config.rope_scaling
    chosen: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if scaling is not None:
        chosen |= {"rope_type": scaling.rope_type, "factor": scaling.factor}
        if scaling.rope_type in ("llama3", "yarn"):
            chosen["original_max_position_embeddings"] = scaling.original_max_position_embeddings
        if scaling.rope_type == "llama3":
            chosen |= {name: getattr(scaling, name) for name in ("low_freq_factor", "high_freq_factor")}
        if scaling.rope_type == "yarn":
            chosen |= {
                name: getattr(scaling, name) for name in ("beta_fast", "beta_slow", "attention_factor")
            }
    return chosen


def names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """(our path, transformers' name) of every parameter of Llama, Qwen2 and Qwen3."""
    yield "embedding", "model.embed_tokens.weight"
    yield "norm/scale", "model.norm.weight"
    if not config.tie_word_embeddings:
        yield "head", "lm_head.weight"
    biased = {False: "", True: "qkvo", "qkv": "qkv"}[config.attention_bias]
    for i in range(config.num_hidden_layers):
        ours, theirs = f"layers/{i}", f"model.layers.{i}"
        yield f"{ours}/attention_norm/scale", f"{theirs}.input_layernorm.weight"
        yield f"{ours}/feedforward_norm/scale", f"{theirs}.post_attention_layernorm.weight"
        for a, b in ATTENTION.items():
            yield f"{ours}/attention/{a}", f"{theirs}.self_attn.{b}.weight"
            if a in biased:
                yield f"{ours}/attention/{a}_bias", f"{theirs}.self_attn.{b}.bias"
        for a, b in FEEDFORWARD.items():
            yield f"{ours}/feedforward/{a}", f"{theirs}.mlp.{b}.weight"
            if config.mlp_bias:
                yield f"{ours}/feedforward/{a}_bias", f"{theirs}.mlp.{b}.bias"
        for a in ("q_norm", "k_norm") if config.qk_norm else ():
            yield f"{ours}/attention/{a}", f"{theirs}.self_attn.{a}.weight"


def gpt2(config: ModelConfig) -> nn.Module:
    """A GPT-2 whose learned positions are our sinusoidal ones."""
    made = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.max_position_embeddings,
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=config.intermediate_size,
        activation_function="gelu_new",
        layer_norm_epsilon=config.rms_norm_eps,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(made)
        for parameter in model.parameters():
            nn.init.normal_(parameter, float(parameter.ndim == 1), 0.1)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(
            sinusoidal(torch.arange(config.max_position_embeddings), config.hidden_size)
        )
    return model


def gpt2_leaves(of: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """{our path: tensor} from GPT-2's named parameters or gradients, whose matrices are [in, out], and q, k,
    v one."""
    found = {
        "embedding": of["transformer.wte.weight"],
        "norm/scale": of["transformer.ln_f.weight"],
        "norm/bias": of["transformer.ln_f.bias"],
    }
    for i in range(config.num_hidden_layers):
        layer, theirs = f"layers/{i}", f"transformer.h.{i}"
        for ours, name in (("attention_norm", "ln_1"), ("feedforward_norm", "ln_2")):
            found[f"{layer}/{ours}/scale"] = of[f"{theirs}.{name}.weight"]
            found[f"{layer}/{ours}/bias"] = of[f"{theirs}.{name}.bias"]
        matrices = of[f"{theirs}.attn.c_attn.weight"].T.chunk(3)
        biases = of[f"{theirs}.attn.c_attn.bias"].chunk(3)
        for name, matrix, bias in zip("qkv", matrices, biases, strict=True):
            found[f"{layer}/attention/{name}"], found[f"{layer}/attention/{name}_bias"] = matrix, bias
        for ours, name in (
            ("attention/o", "attn.c_proj"),
            ("feedforward/up", "mlp.c_fc"),
            ("feedforward/down", "mlp.c_proj"),
        ):
            found[f"{layer}/{ours}"] = of[f"{theirs}.{name}.weight"].T
            found[f"{layer}/{ours}_bias"] = of[f"{theirs}.{name}.bias"]
    return found


def fill(spec: Tree, found: dict[str, Tensor]) -> Tree:
    """A tree shaped like `spec` from {path: tensor}; every leaf once, every shape right."""
    assert sorted(tree.paths(spec)) == sorted(found)
    params = tree.map_with_path(lambda path, _: found[path].detach().clone(), spec)
    assert tree.leaves(tree.map(lambda s, x: s.shape == tuple(x.shape), spec, params)) == [True] * len(found)
    return params
