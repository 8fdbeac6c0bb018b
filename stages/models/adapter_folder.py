"""Read a folder of adapters in PEFT's format: the base model that it names, and the adapters' weights.

A folder that was written here also has `base.json`: the path of the base, how it was stored, and its digest,
so that adapters are never merged into another base unnoticed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch

from data_pipes import files
from pure import tree
from pure.adapt.attach import materialize
from pure.adapt.qlora import quantize_layers
from pure.config import ModelConfig
from pure.interop import hf, peft_apply, peft_config, peft_weights
from pure.nn.transformer import transformer
from pure.types import Tree
from stages.models import checksums, hub
from stages.models import folder as model_folder
from stages.models.hardware import DTYPES
from stages.models.identity import is_digest_of

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
PICKLE = "adapter_model.bin"


class Base(NamedTuple):
    """The base of adapters, from base.json; the defaults are those of a folder that PEFT wrote.

    Fields:
        path: where the base was when the adapters were trained; "" if unknown.
        digest: digest of the base's weights; "" if unknown.
        quantized: whether the base was stored in four bits per weight.
        dtype: dtype of the base before it was quantised.
    """

    path: str = ""
    digest: str = ""
    quantized: bool = False
    dtype: torch.dtype = torch.float32


def base_path(folder: Path) -> str:
    """Returns the path or name of the base that a folder's adapters belong to.

    A relative path is resolved as PEFT does, from the working directory.

    Raises:
        ValueError: if adapter_config.json names no base, a revision of the base other than the newest, or the
            folder itself as the base.
        FileNotFoundError: if the base is a path that does not exist.
    """
    fields = files.read_json(folder / CONFIG)
    path, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(
            f"{folder / CONFIG}: base_model_name_or_path is missing; write the base's path or name there"
        )
    if Path(path).exists():
        if model_folder.find_final_model(path).resolve() == folder.resolve():
            raise ValueError(
                f"{folder / CONFIG}: base_model_name_or_path is this folder; write the base's path there"
            )
        return path
    if not hub.is_name(path):
        raise FileNotFoundError(
            f"{path} is missing, the base of the adapters in {folder}; put it back, or write its new path "
            f"into {CONFIG} and delete {checksums.NAME}"
        )
    if revision not in (None, "main"):
        raise ValueError(
            f"{folder / CONFIG}: revision {revision!r:.60} of {path} is not the newest one; download it, and "
            "write its folder into base_model_name_or_path"
        )
    return path


def find_adapters(path: str | Path) -> Path | None:
    """Returns the folder, its final_model, or the copy of a model by its name, if it holds adapters."""
    folder = model_folder.find_final_model(hub.find(path))
    return folder if (folder / CONFIG).is_file() else None


def follow_bases(folder: Path) -> tuple[str, list[Path]]:
    """Follows the bases of adapters down to a full model, one without adapters.

    Args:
        folder: a folder with adapters.

    Returns:
        The path of the full model, and the folders of adapters in the order in which they are applied to it.

    Raises:
        ValueError: if a base leads back to its own adapters, or PEFT wrote adapters over adapters, of which
            PEFT itself loads only the last.
        FileNotFoundError: as `base_path`.
    """
    folders = [folder]
    while True:
        path = base_path(folders[0])
        below = find_adapters(path)
        if below is None:
            return path, folders
        if below.resolve() in {x.resolve() for x in folders}:
            raise ValueError(f"{folders[0] / CONFIG}: base_model_name_or_path {path} leads back to {below}")
        if not (folders[0] / BASE).is_file():
            raise ValueError(
                f"{folders[0] / CONFIG}: base_model_name_or_path {path} holds adapters itself, which PEFT "
                f"would lose silently; run intro2llm merge --model_path {path} --output_dir MERGED, and "
                "write MERGED there"
            )
        folders.insert(0, below)


def read_base(folder: Path) -> Base:
    """Reads base.json.

    Raises:
        ValueError: if it is damaged; the field is named.
    """
    file = folder / BASE
    if not file.is_file():
        return Base()
    fields = files.read_json(file)
    kinds = {"path": str, "digest": str, "quantized": bool, "dtype": str}
    for name, kind in kinds.items():
        if name in fields and not isinstance(fields[name], kind):
            raise ValueError(
                f"{file}: {name}: expected a {kind.__name__}, got {fields[name]!r:.60}; copy it again"
            )
    dtype = DTYPES.get(fields.get("dtype", "float32"))
    if dtype is None:
        raise ValueError(
            f"{file}: dtype: expected one of {', '.join(DTYPES)}, got {fields['dtype']!r:.60}; copy it again"
        )
    return Base(fields.get("path", ""), fields.get("digest", ""), fields.get("quantized", False), dtype)


def read_adapters(folder: Path, base: Tree, path: str) -> peft_weights.Adapters:
    """Reads the adapters of a folder.

    Args:
        folder: a folder with adapter_config.json.
        base: the base's params, in the dtype of their file or a wider dtype.
        path: path or name of the base, for messages.

    Returns:
        Adapters, checked against the base.

    Raises:
        ValueError: if a file is damaged, differs from its sha256 in SHA256SUMS, needs an unsupported feature,
            or belongs to another base.
        FileNotFoundError: if a file is missing.
    """
    checksums.verify(folder)
    fields, recorded = files.read_json(folder / CONFIG), read_base(folder)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).is_file():
        raise ValueError(
            f"{folder / PICKLE}: pickled weights are not read, as they can run any code; load them with "
            f"PEFT, and save them again, which writes {WEIGHTS}"
        )
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder / WEIGHTS} is missing; expected the adapters in the folder of {CONFIG}"
        )
    if recorded.digest and not is_digest_of(recorded.digest, base):
        raise ValueError(
            f"{folder}: the adapters were trained on {recorded.path}, and {path} has other weights now; "
            "restore the base on which they were trained"
        )
    try:
        parsed = peft_config.parse(fields)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    weights = model_folder.read_weights(folder, name=WEIGHTS)
    try:
        return peft_weights.read(parsed, weights, hf.to_weights(base))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def merge_adapters(folder: Path, config: ModelConfig, base: Tree, path: str) -> tuple[ModelConfig, Tree]:
    """Merges the adapters of a folder into their base, quantised if they were trained on a quantised one.

    Args:
        folder: a folder with adapter_config.json.
        config: configuration of the base.
        base: the base's params.
        path: path or name of the base, for messages.

    Returns:
        (configuration, merged params in the base's dtype); the configuration differs from the base's if the
        adapters untie the head or resize the vocabulary.

    Raises:
        ValueError, FileNotFoundError: as `read_adapters`.
    """
    adapters, recorded = read_adapters(folder, base, path), read_base(folder)
    dtype = tree.leaves(base)[0].dtype
    if recorded.quantized:
        base = tree.cast(materialize(quantize_layers(tree.cast(base, recorded.dtype))), torch.float32)
    weights = peft_apply.apply(adapters, hf.to_weights(base))
    changed = dataclasses.replace(
        config,
        tie_word_embeddings="lm_head.weight" not in weights,
        vocab_size=weights["model.embed_tokens.weight"].shape[0],
    )
    params = hf.from_weights(transformer(changed).spec, weights)
    return changed, tree.cast(params, dtype) if recorded.quantized else params
