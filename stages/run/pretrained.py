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
from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.run import json_file, step_folders

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""How messages become text: <|im_start|>role, a new line, the content, <|im_end|>, a new line."""


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
        The folder, with config.json, generation_config.json, model.safetensors, tokenizer.json, tokenizer_config.json,
        and, if the tokenizer has ChatML's tokens, chat_template.jinja.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, text in texts(pretrained).items():
            (partial / name).write_text(text, encoding="utf-8")
        weights = {name: x.detach().cpu().contiguous() for name, x in hf.to_weights(pretrained.params).items()}
        save_file(weights, str(partial / WEIGHTS), metadata={"format": "pt"})
        tokenizers.save(pretrained.tokenizer, partial)
        _sync(partial)
        _replace(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            getattr(error, "errno", None) or 0,
            f"cannot write {folder}: {getattr(error, 'strerror', None) or error}; make room there, and run the same "
            "command again: the state is saved",
        ) from error
    return folder


def texts(pretrained: Pretrained) -> dict[str, str]:
    """The small files of the folder, by name."""
    config, tokenizer = pretrained.model.config, pretrained.tokenizer
    fields = hf.to_hf_config(config)
    fields["dtype"] = str(tree.leaves(pretrained.params)[0].dtype).removeprefix("torch.")
    special = tokenizers.special_tokens(tokenizer)
    names = {number: name for name, number in special.items()}
    ids = {part: getattr(config, f"{part}_token_id") for part in ("bos", "eos", "pad")}
    found = {
        CONFIG: fields,
        "generation_config.json": {f"{part}_token_id": i for part, i in ids.items() if i is not None},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            **{f"{part}_token": names[i] for part, i in ids.items() if i in names},
        },
    }
    written = {name: json.dumps(content, indent=2) + "\n" for name, content in found.items()}
    return written | ({"chat_template.jinja": CHATML} if {"<|im_start|>", "<|im_end|>"} <= set(special) else {})


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: folder.
        dtype: of the params; None keeps that of the file. The file is mapped, and read where a weight is first used.

    Returns:
        Pretrained.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if config.json is not understood, or the weights do not fit it.
    """
    folder = _folder(path, (CONFIG, tokenizers.files.NAME))
    folder = folder if (folder / INDEX).is_file() else _folder(path, (WEIGHTS,))
    model = transformer(read_config(path))
    try:
        params = hf.from_weights(model.spec, _weights(folder))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Pretrained(model, tree.cast(params, dtype) if dtype else params, tokenizers.load(folder))


def read_config(path: str | Path) -> ModelConfig:
    """Reads the configuration of such a folder alone.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not understood.
    """
    file = _folder(path, (CONFIG,)) / CONFIG
    fields = json_file.read(file)
    try:
        return hf.from_hf_config(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: {error}") from None


def _folder(path: str | Path, names: tuple[str, ...]) -> Path:
    """The folder itself, or its final_model; these files must be there."""
    folder = Path(path)
    folder = folder / "final_model" if (folder / "final_model").is_dir() else folder
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; expected a run's folder with a final_model (a run has it once it is "
                f"complete), or one with {CONFIG}, {WEIGHTS} and {tokenizers.files.NAME}"
            )
    return folder


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the folder, mapped: a page is read when it is used, and copied when it is written to."""
    index = folder / INDEX
    names = sorted(set(json_file.read(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    found: dict[str, torch.Tensor] = {}
    for path in (folder / Path(name).name for name in names):
        try:
            with safe_open(str(path), framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a sound safetensors file ({error}); copy it again from its source") from None
    return found


def _sync(folder: Path) -> None:
    """Waits until the disk has every file of a folder."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    step_folders.sync(folder)


def _replace(new: Path, target: Path) -> None:
    """Moves a finished folder into place; the old one goes last."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
