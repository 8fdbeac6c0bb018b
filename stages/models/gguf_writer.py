"""Write a model as a GGUF file, which llama.cpp and what is built on it load.

Matrices have the type that is asked for; norms, biases and rotary divisors are float32, as llama.cpp adds
and multiplies them in float32. The `gguf` package writes the file and quantises; one weight is in memory at a
time.

Source: the GGUF specification; the conversion of llama.cpp.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_pipes import files
from data_pipes.tokenizer import gguf_fields as vocabulary
from pure.interop import gguf_fields, hf
from stages.models import language_model, special_tokens
from stages.models.folder import one_line_error
from stages.models.gguf import ENDS, NAMES
from stages.models.language_model import Pretrained
from stages.models.special_tokens import GENERATION

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

Kind = Literal["f32", "f16", "bf16", "q8_0"]
NAME = "model.gguf"
FILE_TYPES: Mapping[str, int] = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""Kind -> general.file_type."""

DEFAULT = 11
"""Id that llama.cpp takes for bos and eos of a byte-level tokenizer if a file names none."""

BLOCK = 32
"""Numbers of a row that share a scale in q8_0."""


def write(folder: str | Path, pretrained: Pretrained, kind: Kind) -> Path:
    """Writes FOLDER/model.gguf, atomically.

    Args:
        folder: to make; it must not exist.
        pretrained: the model.
        kind: type of the matrices: "f32", "f16", "bf16", or "q8_0", which stores a row in blocks of 32
            numbers x as round(x / d) in eight bits, d = max |x| / 127 in float16.

    Returns:
        The file, which `language_model.load` reads.

    Steps:
        1. Convert configuration, tokenizer, special tokens and templates to fields, or refuse.
        2. Write the header, with the list of weights.
        3. Write the weights, one at a time.

    Edge cases: names of special tokens that GGUF has no field for (cls_token, a model's own) are left out;
    the tokens themselves stay special.

    Raises:
        ValueError: for what a GGUF file cannot carry; the field or weight is named.
        OSError: if the disk refuses.
    """
    folder = Path(folder)
    # 1. Fields.
    weights = dict(_stored(pretrained))
    fields = _fields(pretrained, kind)
    _refuse_rows(weights, kind)
    partial = folder.with_name(f".{folder.name}.partial")
    with files.writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            # 2. and 3. Header and weights.
            _write(partial / NAME, fields, weights, kind)
            files.sync_contents(partial)
            files.publish_folder(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder / NAME


def _write(path: Path, fields: Mapping[str, Any], weights: Mapping[str, Tensor], kind: Kind) -> None:
    """Writes the file."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, fields["general.architecture"])
    try:
        for name, value in fields.items():
            if name != "general.architecture":
                _add_field(writer, name, value)
        for name, x in weights.items():
            stored = _type_of(x, kind)
            dtype, nbytes, shape = _layout(x, stored)
            writer.add_tensor_info(name, shape, dtype, nbytes, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, x in weights.items():
            writer.write_tensor_data(_array(name, x, _type_of(x, kind)))
    finally:
        writer.close()


def _fields(pretrained: Pretrained, kind: Kind) -> dict[str, Any]:
    """All fields of the file."""
    config = pretrained.model.config
    return {
        **gguf_fields.to_gguf_config(config),
        "general.type": "model",
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": 2,
        **vocabulary.to_gguf(pretrained.tokenizer.spec, config.vocab_size),
        **(tokens := _token_fields(pretrained)),
        **_template_fields(pretrained, has_bos="tokenizer.ggml.bos_token_id" in tokens),
    }


def _token_fields(pretrained: Pretrained) -> dict[str, int]:
    """The ids of the special tokens: as tokenizer_config.json and generation_config.json of the model say."""
    texts = language_model.small_files(pretrained)
    ids = {text: i for i, text in special_tokens.texts_of(pretrained.tokenizer).items()}
    named = language_model.named_tokens(pretrained)
    parts = {NAMES[name]: ids[text] for name, text in named.items() if name in NAMES}
    value = json.loads(texts[GENERATION]).get("eos_token_id")
    ends = [i for i in (value if isinstance(value, list) else [value]) if i not in (None, -1)]
    if len(ends) > len(ENDS):
        raise ValueError(
            f"eos_token_id {ends} of {GENERATION} cannot be written as GGUF: a file has room for {len(ENDS)} "
            "ids that end an answer; take --format safetensors"
        )
    first = parts.get("eos")
    if first is not None and ends and first not in ends:
        raise ValueError(
            f"eos_token {named['eos_token']!r} (id {first}) cannot be written as GGUF: it is not among the "
            f"eos_token_id {ends} of {GENERATION}, and a file has one id for both; make them agree"
        )
    ordered = sorted(ends, key=lambda i: i != first)  # the named one first, the others in their order
    parts |= dict(zip(ENDS, ordered, strict=False))
    if "eos" not in parts:
        raise ValueError(
            f"a model without an end cannot be written as GGUF, as llama.cpp then takes id {DEFAULT} for it; "
            f"name eos_token in tokenizer_config.json, or eos_token_id in {GENERATION}"
        )
    prefix = pretrained.tokenizer.spec.prefix
    if prefix and parts.setdefault("bos", prefix[0]) != prefix[0]:
        raise ValueError(
            f"bos_token {named['bos_token']!r} cannot be written as GGUF: the tokenizer puts id {prefix[0]} "
            "before a text, and a file has one id for both; make them agree"
        )
    return {f"tokenizer.ggml.{part}_token_id": i for part, i in parts.items()}


def _template_fields(pretrained: Pretrained, *, has_bos: bool) -> dict[str, Any]:
    """The chat templates; a model with ChatML's tokens and no template gets ChatML."""
    default = pretrained.chat_template
    if not default and not pretrained.other_templates and language_model.has_chatml(pretrained):
        default = language_model.CHATML
    others = pretrained.other_templates
    if not has_bos:
        _refuse_bos([default or "", *(source for _, source in others)])
    return {
        **({"tokenizer.chat_template": default} if default else {}),
        **({"tokenizer.chat_templates": [name for name, _ in others]} if others else {}),
        **{f"tokenizer.chat_template.{name}": source for name, source in others},
    }


def _refuse_bos(templates: list[str]) -> None:
    """Refuses templates that write a bos token that the model lacks: llama.cpp writes another token there."""
    if any("bos_token" in template for template in templates):
        raise ValueError(
            "the chat template names bos_token, which the model lacks, and cannot be written as GGUF, as "
            f"llama.cpp takes id {DEFAULT} for it; name it in tokenizer_config.json, or take it out there"
        )


def _stored(pretrained: Pretrained) -> Iterator[tuple[str, Tensor]]:
    """(GGUF's name, tensor) of every weight; the rows of Llama's q and k in the order of its code."""
    config = pretrained.model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    permuted = hf.model_type(config) == "llama"
    divisors = gguf_fields.rope_divisors(config)
    if divisors is not None:
        yield "rope_freqs.weight", divisors
    for theirs, x in hf.to_weights(pretrained.params).items():
        name = gguf_fields.gguf_name(theirs)
        part = name.split(".")[-2]
        yield name, gguf_fields.permute(x, heads[part]) if permuted and part in heads else x


def _refuse_rows(weights: Mapping[str, Tensor], kind: Kind) -> None:
    """Refuses rows that are no whole number of q8_0's blocks."""
    for name, x in weights.items():
        if kind == "q8_0" and x.ndim == 2 and x.shape[1] % BLOCK:
            raise ValueError(
                f"{name}: rows of {x.shape[1]} numbers cannot be written as q8_0, whose blocks have {BLOCK}; "
                "take --gguf_type f16"
            )


def _type_of(x: Tensor, kind: Kind) -> GGMLQuantizationType:
    """The stored type of a weight: matrices `kind`, all else float32."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind.upper() if x.ndim == 2 else "F32"]


def _layout(x: Tensor, stored: GGMLQuantizationType) -> tuple[np.dtype, int, tuple[int, ...]]:
    """(numpy's dtype, bytes, shape in that dtype) of a stored weight."""
    from gguf.constants import GGML_QUANT_SIZES

    plain = {"F32": np.float32, "F16": np.float16}.get(stored.name)
    if plain is not None:
        dtype = np.dtype(plain)
        return dtype, x.numel() * dtype.itemsize, tuple(x.shape)
    block, size = GGML_QUANT_SIZES[stored]
    row = x.shape[-1] // block * size
    return np.dtype(np.uint8), x.numel() // block * size, (*x.shape[:-1], row)


def _array(name: str, x: Tensor, stored: GGMLQuantizationType) -> np.ndarray:
    """The bytes of a weight."""
    from gguf.quants import quantize

    x = x.detach().cpu().contiguous()
    if stored.name == "F16":
        half = x.to(torch.float16)
        if not torch.equal(half.isfinite(), x.isfinite()):
            raise one_line_error(
                name,
                ValueError(
                    f"numbers up to {float(x.abs().max()):.3g} cannot be written as f16, whose largest is "
                    "65504; take --gguf_type bf16"
                ),
            )
        return half.numpy()
    if stored.name == "BF16" and x.dtype == torch.bfloat16:
        return x.view(torch.uint8).numpy()
    numbers = x.float().numpy()
    return numbers if stored.name == "F32" else quantize(numbers, stored)


def _add_field(writer: GGUFWriter, name: str, value: Any) -> None:
    """Adds a field with the type that llama.cpp expects."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
