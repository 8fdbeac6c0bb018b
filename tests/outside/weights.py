"""Weights: names, dtypes, shards and their index, as transformers writes them or damaged later."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file, save_model

from stages.models import language_model
from tests.outside import models, published
from tests.outside.form import Form

UNTIED = models.shrink({**published.LLAMA3, **published.SIZE_8B, "max_position_embeddings": 8192})
TIED = {**UNTIED, "tie_word_embeddings": True}
INDEX = "model.safetensors.index.json"
NAME = "model.layers.0.mlp.up_proj.weight"

Weights = dict[str, torch.Tensor]


def _changed(
    change: Callable[[Weights], Weights], fields: Mapping[str, Any] = TIED
) -> Callable[[Path], torch.Tensor]:
    """Write a model with changed weights; return the logits of the unchanged one."""

    def write(folder: Path) -> torch.Tensor:
        model = models.write(folder, fields)
        save_file(
            change(models.named_weights(model)), str(folder / "model.safetensors"), metadata={"format": "pt"}
        )
        return models.peer_logits(model)

    return write


def _write_by_safetensors(folder: Path) -> torch.Tensor:
    """Write a model with safetensors' save_model, which stores shared weights under one name."""
    model = models.write(folder, TIED)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert "lm_head.weight" in load_file(folder / "model.safetensors")
    return models.peer_logits(model)


def _write_base_model(folder: Path) -> torch.Tensor:
    """Write a model as AutoModel does: without prefix and head."""
    model = models.write(folder, TIED)
    model.model.save_pretrained(folder)
    return models.peer_logits(model)


def _write_mixed_dtypes(folder: Path) -> torch.Tensor:
    """Write a bfloat16 model with float32 norms; the expected logits are computed in float32."""
    model = models.write(folder, TIED)
    narrow = {name: x if x.ndim == 1 else x.bfloat16() for name, x in models.named_weights(model).items()}
    model.load_state_dict(narrow, strict=False)
    save_file(narrow, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return models.peer_logits(model)


def _logits_in_widest_dtype(folder: Path) -> dict[str, Any]:
    """Our logits if no dtype is given: in the widest dtype of the file."""
    loaded = language_model.load(folder)
    with torch.no_grad():
        return loaded.model.forward(loaded.params, torch.tensor(models.TOKENS))


def _write_shards(folder: Path) -> torch.Tensor:
    """Write a model in several files with transformers."""
    model = models.write(folder, UNTIED)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return models.peer_logits(model)


def _write_stale_copies(folder: Path) -> torch.Tensor:
    """Write shards, each with stale copies of the tensors that the index places in other shards."""
    expected = _write_shards(folder)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    for path in sorted(folder.glob("*.safetensors")):
        weights = load_file(path)
        others = {name: torch.zeros(3) for name in places if name not in weights}
        save_file({**weights, **others}, str(path), metadata={"format": "pt"})
    return expected


def _write_unindexed_file(folder: Path) -> torch.Tensor:
    """Write shards and another file of weights, which the index does not name."""
    expected = _write_shards(folder)
    save_file({NAME: torch.zeros(48, 32)}, str(folder / "consolidated.safetensors"))
    return expected


def _index(change: Callable[[Path, dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Write shards and change their index."""

    def write(folder: Path) -> None:
        _write_shards(folder)
        fields = json.loads((folder / INDEX).read_text())
        changed = change(folder, fields)
        (folder / INDEX).write_text(json.dumps(fields if changed is None else changed))

    return write


def _move_tensor(_: Path, fields: dict[str, Any]) -> None:
    """Let the index place a tensor in another file."""
    places = fields["weight_map"]
    places[NAME] = next(file for file in places.values() if file != places[NAME])


def _remove_shard(folder: Path, fields: dict[str, Any]) -> None:
    """Remove a shard."""
    (folder / fields["weight_map"][NAME]).unlink()


def _add_single_file(folder: Path, _: dict[str, Any]) -> None:
    """Add an old model.safetensors to the shards."""
    save_file({NAME: torch.zeros(48, 32)}, str(folder / "model.safetensors"))


def _place_at(value: Any) -> Callable[[Path, dict[str, Any]], None]:
    """Let the index place a tensor at this value."""
    return lambda _, fields: fields["weight_map"].update({NAME: value})


def _write_pickle(folder: Path) -> None:
    """Write only pytorch_model.bin, as old models have."""
    model = models.write(folder, UNTIED)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _drop_tensor(name: str) -> Callable[[Weights], Weights]:
    """Remove one tensor."""
    return lambda weights: {key: x for key, x in weights.items() if key != name}


def _right(name: str, theirs: Callable[[Path], Any], ours: Callable[[Path], Any] = models.our_logits) -> Form:
    return Form("weights", name, "transformers", theirs, ours, tolerance=1e-4)


def _refused(name: str, message: str, theirs: Callable[[Path], Any], writer: str = "transformers") -> Form:
    return Form("weights", name, writer, theirs, language_model.load, refused=message)


FORMS = (
    _right("tied head missing", _changed(dict)),
    _right("tied head saved", _changed(lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"].clone()})),
    _right("tied, only the head's name is stored, as safetensors' save_model does", _write_by_safetensors),
    _right("untied", _changed(dict, UNTIED)),
    _right("base model without prefix and head", _write_base_model),
    _right("rotary buffers", _changed(lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
                                                 "model.rotary_emb.inv_freq": torch.ones(4)})),
    _right("float16", _changed(lambda w: {name: x.half() for name, x in w.items()}))._replace(tolerance=5e-2),
    _right("float32 norms in a bfloat16 model", _write_mixed_dtypes),
    _right("float32 norms in a bfloat16 model, no dtype asked for", _write_mixed_dtypes, _logits_in_widest_dtype),
    _right("shards", _write_shards),
    _right("stale copies in other shards", _write_stale_copies),
    _right("a file next to the shards", _write_unindexed_file),
    _refused("untied head missing", r"missing lm_head\.weight", _changed(_drop_tensor("lm_head.weight"), UNTIED)),
    _refused("tied head that is another", r"tie_word_embeddings is true, and lm_head\.weight differs",
             _changed(lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"] + 1})),
    _refused("a layer missing", "num_hidden_layers is 2, but the weights have 1 layer",
             _changed(lambda w: {name: x for name, x in w.items() if ".layers.1." not in name})),
    _refused("a weight missing", f"missing {NAME}", _changed(_drop_tensor(NAME))),
    _refused("a part of a larger model", "begin with 'language_model.model.'",
             _changed(lambda w: {f"language_model.{name}": x for name, x in w.items()})),
    _refused("a wrapper's prefix", "begin with 'base_model.model.model.'.*merge_and_unload",
             _changed(lambda w: {f"base_model.model.{name}": x for name, x in w.items()})),
    _refused("an attention mask saved as a buffer", r"not understood model.layers.0.self_attn.masked_bias",
             _changed(lambda w: {**w, "model.layers.0.self_attn.masked_bias": torch.zeros(1)})),
    _refused("float8", "up_proj.weight is float8_e4m3fn; quantised weights are not read",
             _changed(lambda w: {**w, NAME: w[NAME].to(torch.float8_e4m3fn)})),
    _refused("int8", "up_proj.weight is int8; quantised", _changed(lambda w: {**w, NAME: w[NAME].to(torch.int8)})),
    _refused("a weight of another shape", r"up_proj.weight: expected shape \(48, 32\), got \(32, 48\)",
             _changed(lambda w: {**w, NAME: w[NAME].T.contiguous()})),
    _refused("a classifier", "weights of a reward model: score.weight",
             _changed(lambda w: {**w, "score.weight": torch.zeros(2, 32)})),
    _refused("pickled", r"pytorch_model\.bin: pickled weights are never read", _write_pickle),
    _refused("index without weight_map", r"index\.json: weight_map is missing", _index(lambda *_: {"metadata": {}})),
    _refused("index with an empty weight_map", r"weight_map is '\{\}'", _index(lambda *_: {"weight_map": {}})),
    _refused("index whose weight_map is a list", r"weight_map is '\[\]'", _index(lambda *_: {"weight_map": []})),
    _refused("index that is a list", "expected a JSON object", _index(lambda *_: [1])),
    _refused("index with a number as place", "up_proj.weight' is '1'", _index(_place_at(1))),
    _refused("index with an object as place", r"up_proj.weight' is '\{\}'", _index(_place_at({}))),
    _refused("index out of the folder", r"is '\.\./model.safetensors'", _index(_place_at("../model.safetensors"))),
    _refused("index to another disk", "is '/model.safetensors'", _index(_place_at("/model.safetensors"))),
    _refused("index to a pickle", "is 'model.bin'", _index(_place_at("model.bin"))),
    _refused("index with half a character", "expected the name of a .saf", _index(_place_at("\ud800.safetensors"))),
    _refused("index with a file of no length", "expected the name", _index(_place_at("\0.safetensors"))),
    _refused("a shard missing", "which is not in the folder .1 of", _index(_remove_shard)),
    _refused("a tensor in another shard", "up_proj.weight' is missing, though the index", _index(_move_tensor)),
    _refused("a tensor in no index", "up_proj.weight' is not in the weight_map",
             _index(lambda _, fields: fields["weight_map"].pop(NAME) and None)),
    _refused("a whole model next to the shards", "has both model.safetensors and", _index(_add_single_file)),
)  # fmt: skip
