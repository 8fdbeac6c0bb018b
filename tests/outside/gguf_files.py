"""GGUF files as llama.cpp's conversion and quantisation write them, made with the gguf package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from data_pipes.tokenizer import Tokenizer
from pure import random, tree
from pure.config import ModelConfig, from_dict
from pure.interop import hf
from pure.nn.transformer import transformer
from stages.models import language_model
from tests.outside import models
from tests.outside.form import Form
from tests.stages.models import gguf_writer

SMALL: Mapping[str, Any] = {
    "vocab_size": 282, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
UNTIED: Mapping[str, Any] = {"tie_word_embeddings": False}
SCALED = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
KIND = gguf.GGMLQuantizationType
HEAD = "llama.attention.head_count"


def _small_model(**changes: Any) -> tuple[ModelConfig, Any]:
    """A small random model; biases and norms are random too."""
    config = from_dict({**SMALL, **changes})
    params = transformer(config).init(random.key(1))
    return config, tree.map(
        lambda x: x + 0.1 * torch.linspace(-1, 1, x.numel()) if x.ndim == 1 else x, params
    )


def _reference_logits(config: ModelConfig, params: Any) -> torch.Tensor:
    """transformers' logits for these params."""
    reference_config = transformers.AutoConfig.for_model(**hf.to_hf_config(config))
    model = transformers.AutoModelForCausalLM.from_config(
        reference_config, attn_implementation="eager", dtype=torch.float32
    )
    missing = model.load_state_dict(hf.to_weights(params), strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"])
    return models.peer_logits(model.eval())


def _write_model(changes: Mapping[str, Any] = {}, **fields: Any) -> Callable[[Path], torch.Tensor]:
    """Write a small model in float32."""

    def write(folder: Path) -> torch.Tensor:
        config, params = _small_model(**changes)
        gguf_writer.write(folder / "model.gguf", config, params, models.tokenizer(), **fields)
        return _reference_logits(config, params)

    return write


def _llama31(folder: Path) -> torch.Tensor:
    """Write a model with Llama 3.1's scaling, stored as a divisor of each frequency."""
    config, params = _small_model(rope_scaling=SCALED, rope_theta=500000.0, head_dim=32)
    reference_config = transformers.AutoConfig.for_model(**hf.to_hf_config(config))
    scaled = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(reference_config).inv_freq
    factors = 500000.0 ** (-torch.arange(0, 32, 2) / 32) / scaled
    plain = from_dict({**SMALL, "head_dim": 32, "rope_theta": 500000.0})
    gguf_writer.write(folder / "model.gguf", plain, params, models.tokenizer(), rope_factors=factors)
    return _reference_logits(config, params)


def _write_quantised(kind: KIND) -> Callable[[Path], torch.Tensor]:
    """Write quantised matrices; the expected logits are those of the gguf package's dequantised values."""

    def write(folder: Path) -> torch.Tensor:
        config, params = _small_model(
            hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64
        )
        path = folder / "model.gguf"
        gguf_writer.write(path, config, params, models.tokenizer(), quantise=lambda x: _quantise(x, kind))
        dequantised = {
            tensor.name: torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
            for tensor in gguf.GGUFReader(path).tensors
        }
        names = {ours: name for name, ours in gguf_writer.gguf_names(hf.to_weights(params)).items()}
        weights = {
            names[name]: gguf_writer.undo_permutation(name, x, config) for name, x in dequantised.items()
        }
        return _reference_logits(config, hf.from_weights(transformer(config).spec, weights))

    return write


def _quantise(x: np.ndarray, kind: KIND) -> tuple[np.ndarray, KIND]:
    """Quantise a matrix; K-quants, which the package cannot write, become random blocks of small scale."""
    if x.ndim == 1:
        return x, KIND.F32
    try:
        return gguf.quants.quantize(x, kind), kind
    except NotImplementedError:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.random.default_rng(0).integers(0, 256, (x.shape[0], x.shape[1] // block, size), np.uint8)
        scale = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
        places = {KIND.Q4_K: (0, 2), KIND.Q5_K: (0, 2), KIND.Q6_K: (size - 2,), KIND.Q3_K: (size - 2,)}
        for start in places.get(kind, (size - 4, size - 2)):
            blocks[..., start : start + 2] = scale
        return blocks.reshape(x.shape[0], -1), kind


def _changed(
    change: Callable[[dict[str, Any], dict[str, tuple]], None], **fields: Any
) -> Callable[[Path], None]:
    """Write a file after `change` of its fields {name: value} and weights {name: (array, its type)}."""

    def write(folder: Path) -> None:
        config, params = _small_model(**UNTIED)
        gguf_writer.write(folder / "model.gguf", config, params, models.tokenizer(), change=change, **fields)

    return write


def _load(folder: Path) -> torch.Tensor:
    """Load the file and compute our logits."""
    return models.our_logits(folder / "model.gguf")


def _ids(folder: Path) -> list[int]:
    """Our ids of a text, with the prefix of the tokenizer."""
    tokenizer: Tokenizer = language_model.load(folder / "model.gguf").tokenizer
    return [*tokenizer.spec.prefix, *tokenizer.encode("add(left)")]


def _prefixed(bos: bool | None, prefix: list[int], pre: str = "llama-bpe") -> Callable[[Path], list[int]]:
    """Write a file with or without add_bos_token; return the expected ids, which begin with `prefix`."""

    def write(folder: Path) -> list[int]:
        config, params = _small_model()

        def change(fields: dict[str, Any], _: dict[str, tuple]) -> None:
            fields["tokenizer.ggml.pre"] = pre
            fields["tokenizer.ggml.bos_token_id"] = 3
            if bos is not None:
                fields["tokenizer.ggml.add_bos_token"] = bos

        gguf_writer.write(folder / "model.gguf", config, params, models.tokenizer(), change=change)
        return prefix + models.tokenizer().encode("add(left)")

    return write


def _right(name: str, theirs: Callable[[Path], Any], tolerance: float = 1e-4) -> Form:
    return Form("gguf", name, "gguf", theirs, _load, tolerance=tolerance)


def _refused(name: str, message: str, **changes: Any) -> Form:
    """A file with changed fields, which is refused; field names have __ for each dot."""

    def change(fields: dict[str, Any], _: dict[str, tuple]) -> None:
        fields.update({key.replace("__", "."): value for key, value in changes.items()})

    return Form("gguf", name, "gguf", _changed(change), _load, refused=rf"model\.gguf: .*({message})")


def _weight(name: str, message: str, weight: str, value: Any) -> Form:
    """A refused file with one changed weight: an array, a function of the old one, or None to drop it."""

    def change(_: dict[str, Any], weights: dict[str, tuple]) -> None:
        array, kind = weights.pop(weight, (None, None))
        changed = value(array) if callable(value) else value
        if changed is not None:
            weights[weight] = changed if isinstance(changed, tuple) else (np.ascontiguousarray(changed), kind)

    return Form("gguf", name, "gguf", _changed(change), _load, refused=rf"model\.gguf: .*({message})")


KINDS = (
    KIND.F16,
    KIND.BF16,
    KIND.Q8_0,
    KIND.Q4_0,
    KIND.Q4_1,
    KIND.Q5_0,
    KIND.Q2_K,
    KIND.Q3_K,
    KIND.Q4_K,
    KIND.Q5_K,
    KIND.Q6_K,
)
FORMS = (
    _right("Llama", _write_model(UNTIED)),
    _right("Llama tied, with biases", _write_model({"attention_bias": True})),
    _right("Qwen2", _write_model({"attention_bias": "qkv"})),
    _right("Qwen3", _write_model({"qk_norm": True, "head_dim": 12})),
    _right("linear scaling", _write_model({"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
                                      rope__scaling__type="linear", rope__scaling__factor=2.0)),
    _right("Llama 3.1's rope_freqs", _llama31),
    _right("no experts", _write_model(UNTIED, expert_count=0, expert_used_count=0)),
    *(_right(f"matrices in {kind.name}", _write_quantised(kind)) for kind in KINDS),
    Form("gguf", "Llama 3 without add_bos_token adds it", "gguf", _prefixed(None, [3]), _ids),
    Form("gguf", "Llama 3 with add_bos_token false", "gguf", _prefixed(False, []), _ids),
    Form("gguf", "Qwen2 without add_bos_token", "gguf", _prefixed(None, [], "qwen2"), _ids),
    Form("gguf", "R1's Qwen with add_bos_token", "gguf", _prefixed(True, [3], "deepseek-r1-qwen"), _ids),
    _refused("another architecture", "architecture 'phi3' is not supported", general__architecture="phi3"),
    _refused("a part of several", "one of 3 files of a model.*llama-gguf-split --merge", split__count=3),
    _refused("another split pattern", "tokenizer.ggml.pre 'tekken'", tokenizer__ggml__pre="tekken"),
    _refused("an unnamed split pattern", "tokenizer.ggml.pre 'default'", tokenizer__ggml__pre="default"),
    _refused("an end after every text", "add_eos_token is not supported", tokenizer__ggml__add_eos_token=True),
    _refused("no blocks", "llama.block_count: expected a whole number from 1", llama__block_count=0),
    _refused("blocks without end", "llama.block_count: expected.*got 4294967295", llama__block_count=2**32 - 1),
    _refused("more blocks than weights", "block_count is 90, but the weights have 2", llama__block_count=90),
    _refused("no heads", f"{HEAD}: expected a whole number from 1", llama__attention__head_count=0),
    _refused("heads by layer", f"{HEAD}: expected.*, got .4, 4", llama__attention__head_count=[4, 4]),
    _refused("a context that is text", "llama.context_length: expected", llama__context_length="128"),
    _refused("an endless epsilon", "rms_epsilon: expected a finite number",
             llama__attention__layer_norm_rms_epsilon=float("nan")),
    _refused("experts", "fields not understood: expert_count", llama__expert_count=8),
    _refused("merges that are no text", r"merges\[0\]: expected str", tokenizer__ggml__merges=[True]),
    _refused("tokens that are no text", r"tokens\[0\]: expected str", tokenizer__ggml__tokens=[1.5]),
    _refused("an end that is a list", "eos_token_id: expected an id, got", tokenizer__ggml__eos_token_id=[1]),
    _refused("a template that is no text", "chat_template: expected a text", tokenizer__chat_template=3),
    _weight("an embedding that is one number", "token_embd.weight: expected two axes", "token_embd.weight",
            lambda x: x[:1, 0]),
    _weight("rows of q that are no heads", r"attn_q.weight: expected shape \(32, 32\)", "blk.0.attn_q.weight",
            lambda x: x[:25]),
    _weight("whole numbers", "attn_q.weight: quantisation I8 is not read", "blk.0.attn_q.weight",
            lambda x: (x.astype(np.int8), KIND.I8)),
    _weight("a norm missing", "missing model.norm.weight", "output_norm.weight", None),
    _weight("a weight of another model", "'blk.0.ssm_a' is not understood", "blk.0.ssm_a", np.zeros(4, np.float32)),
)  # fmt: skip
