"""A finished model on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

transformers loads the folder as it is, and so does every later stage.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data_pipes import tokenizer as tokenizers
from pure import tree
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree


class Pretrained(NamedTuple):
    """A model, its weights, and the tokenizer that both were made with."""

    model: Model
    params: Tree
    tokenizer: tokenizers.Tokenizer


def save(folder: str | Path, pretrained: Pretrained) -> Path:
    """Writes the folder, whole or not at all: an older one stays until the new one is complete.

    Args:
        folder: is made or replaced.
        pretrained: float32, bfloat16 or float16 params.

    Returns:
        The folder.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    fields = hf.to_hf_config(pretrained.model.config)
    fields["dtype"] = str(tree.leaves(pretrained.params)[0].dtype).removeprefix("torch.")
    (partial / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    weights = {name: x.detach().cpu().contiguous() for name, x in hf.to_weights(pretrained.params).items()}
    save_file(weights, str(partial / "model.safetensors"), metadata={"format": "pt"})
    tokenizers.save(pretrained.tokenizer, partial)
    _replace(partial, folder)
    return folder


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: folder.
        dtype: of the params; None keeps that of the file.

    Raises:
        FileNotFoundError: if a file is missing, with what is there.
        ValueError: if the weights do not fit config.json.
    """
    folder = Path(path)
    folder = folder / "final_model" if (folder / "final_model").is_dir() else folder
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; expected a run's folder with a final_model, or one with config.json, "
                "model.safetensors and tokenizer.json"
            )
    config = hf.from_hf_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    model = transformer(config)
    params = hf.from_weights(model.spec, _weights(folder / "model.safetensors"))
    return Pretrained(model, tree.cast(params, dtype) if dtype else params, tokenizers.load(folder))


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a safetensors file, in memory of its own."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a sound safetensors file ({error}); copy it again from its source") from None


def _replace(new: Path, target: Path) -> None:
    """Moves a finished folder into place; the old one goes last."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
