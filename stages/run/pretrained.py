"""A finished model on disk, in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.

transformers loads the folder as it is, and so does every later stage.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data_pipes import tokenizer as tokenizers
from data_pipes.chat import CHATML
from pure import tree
from pure.config import ModelConfig
from pure.interop import hf
from pure.nn.transformer import transformer
from pure.types import Model, Tree
from stages.run import gguf_file, hub_model, json_file, step_folders

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"

TEMPLATE = "chat_template.jinja"
TURN = ("<|im_start|>", "<|im_end|>")
"""ChatML's tokens."""


class Pretrained(NamedTuple):
    """A model, its weights, and the tokenizer that both were made with.

    Fields:
        model: bound to its configuration.
        params: of the model.
        tokenizer: whose ids they know.
        chat_template: jinja2; None is ChatML, if the tokenizer has its tokens.
    """

    model: Model
    params: Tree
    tokenizer: tokenizers.Tokenizer
    chat_template: str | None = None


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
    return write(folder, texts(pretrained), hf.to_weights(pretrained.params), pretrained.tokenizer)


def write(
    folder: str | Path, files: Mapping[str, str], weights: Mapping[str, torch.Tensor], tokenizer: tokenizers.Tokenizer
) -> Path:
    """Writes a model's folder, whole or not at all.

    Args:
        folder: is made or replaced.
        files: texts by name.
        weights: tensors by Hugging Face's names.
        tokenizer: written as tokenizer.json.

    Returns:
        The folder.

    Raises:
        OSError: if the disk refuses; an older folder stays.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        tensors = {name: x.detach().cpu().contiguous() for name, x in weights.items()}
        save_file(tensors, str(partial / WEIGHTS), metadata={"format": "pt"})
        tokenizers.save(tokenizer, partial)
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
        "generation_config.json": {f"{part}_token_id": i for part, i in ids.items() if i is not None}
        | _ends(special, ids),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,
            **{f"{part}_token": names[i] for part, i in ids.items() if i in names},
        },
    }
    written = {name: json.dumps(content, indent=2) + "\n" for name, content in found.items()}
    template = pretrained.chat_template or (CHATML if set(TURN) <= set(special) else None)
    return written | ({TEMPLATE: template} if template else {})


def load(path: str | Path, *, dtype: torch.dtype | None = None) -> Pretrained:
    """Reads a folder that `save` or transformers wrote, or a run's folder that has a `final_model`.

    Args:
        path: such a folder; a GGUF file; or a name at huggingface.co, such as "HuggingFaceTB/SmolLM2-135M", which is
            downloaded once.
        dtype: of the params; None keeps that of the file (GGUF: float32). Files are mapped, and read where a weight is
            first used; converted weights are read one by one.

    Returns:
        Pretrained.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if the configuration is not understood, or weights or tokenizer do not fit it.
    """
    if gguf_file.is_gguf(path):
        config, found, tokenizer, template = gguf_file.read(path, dtype or torch.float32)
        folder = Path(path)
    else:
        folder, found = weights_of(path, dtype)
        config, tokenizer, template = read_config(folder), tokenizers.load(folder), template_of(folder)
    model = transformer(config)
    try:
        check_fit(tokenizer, config)
        params = hf.from_weights(model.spec, found)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return Pretrained(model, params, tokenizer, template)


def check_fit(tokenizer: tokenizers.Tokenizer, config: ModelConfig) -> None:
    """Refuses a tokenizer with more ids than the embedding has rows.

    Raises:
        ValueError: in that case.
    """
    size = tokenizers.vocabulary_size(tokenizer)
    if size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {size} ids, the embedding {config.vocab_size} rows; they belong to different models"
        )


def read_config(path: str | Path) -> ModelConfig:
    """Reads the configuration of such a folder alone.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not understood.
    """
    if gguf_file.is_gguf(path):
        return gguf_file.read_config(path)
    file = _folder(path, (CONFIG,)) / CONFIG
    fields = json_file.read(file)
    try:
        return hf.from_hf_config(fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}: {error}") from None


def _folder(path: str | Path, names: tuple[str, ...]) -> Path:
    """The folder itself, or its final_model; these files must be there."""
    folder = hub_model.find(path)
    folder = folder / "final_model" if (folder / "final_model").is_dir() else folder
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; expected a run's folder with a final_model (a run has it once it is "
                f"complete), or one with {CONFIG}, {WEIGHTS} and {tokenizers.files.NAME}"
            )
    return folder


def template_of(folder: Path) -> str | None:
    """The chat template that came with a model, in a file of its own or in tokenizer_config.json."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    found = json_file.read(config).get("chat_template") if config.is_file() else None
    return found if isinstance(found, str) else None


def _ends(special: dict[str, int], ids: dict[str, int | None]) -> dict[str, list[int]]:
    """Where generation stops: behind a document, and behind a turn of a chat."""
    ends = [i for i in (ids["eos"], special.get(TURN[1])) if i is not None]
    return {"eos_token_id": ends} if len(ends) > 1 else {}


def weights_of(path: str | Path, dtype: torch.dtype | None = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a model, and all its tensors by Hugging Face's names: mapped, or, in another dtype, converted.

    Raises:
        FileNotFoundError: if a file is missing, with what is expected.
        ValueError: if a file is damaged.
    """
    folder = _folder(path, (CONFIG, tokenizers.files.NAME))
    folder = folder if (folder / INDEX).is_file() else _folder(path, (WEIGHTS,))
    return folder, _weights(folder, dtype)


def _weights(folder: Path, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Every tensor of the folder, mapped: a page is read when it is used, and copied when it is written to.

    What is converted is read from a map of its own, so that no more than one weight is held twice.
    """
    index = folder / INDEX
    names = sorted(set(json_file.read(index)["weight_map"].values())) if index.is_file() else [WEIGHTS]
    found: dict[str, torch.Tensor] = {}
    for path in (folder / Path(name).name for name in names):
        try:
            with safe_open(str(path), framework="pt") as file:
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found |= {name: _converted(path, name, x, dtype) for name, x in weights.items()}
        except SafetensorError as error:
            raise ValueError(f"{path}: not a sound safetensors file ({error}); copy it again from its source") from None
    return found


def _converted(path: Path, name: str, mapped: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The mapped tensor, if it is of that dtype; else a copy, read from a map that is closed again."""
    if dtype in (None, mapped.dtype) or not mapped.is_floating_point():
        return mapped
    with safe_open(str(path), framework="pt") as file:
        return file.get_tensor(name).to(dtype)


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
