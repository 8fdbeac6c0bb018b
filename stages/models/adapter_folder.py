"""A folder of adapters in PEFT's format, read: the base that it names, and what it changes in it.

Beside PEFT's two files stands `base.json` if the folder was written here: which base it was, how it was
stored, and a digest, so that adapters are never put upon another base unnoticed.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from data_pipes import files
from data_pipes.digest import hash_blocks
from pure import tree
from pure.adapt.attach import whole
from pure.adapt.qlora import quantize_layers
from pure.config import ModelConfig
from pure.interop import hf, peft_apply, peft_config, peft_weights
from pure.nn.transformer import transformer
from pure.serial.writer import memory
from pure.types import Tree
from stages.models import folder as model_folder
from stages.models import hub
from stages.models.hardware import DTYPES

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
PICKLE = "adapter_model.bin"
SAMPLE = 64
"""Numbers of each weight that the digest of earlier versions looks at."""
BLOCK = 1 << 22
"""Numbers that are hashed at once."""


class Base(NamedTuple):
    """What base.json says of the base; the defaults are those of a folder that PEFT wrote.

    Fields:
        path: of the base when the adapters were trained; "" if unknown.
        digest: of the base, or "" if unknown.
        quantized: the base was stored in four bits a number.
        dtype: of the base before that.
    """

    path: str = ""
    digest: str = ""
    quantized: bool = False
    dtype: torch.dtype = torch.float32


def base_path(folder: Path) -> str:
    """Returns the path or name of the base that a folder's adapters belong to.

    A relative path is resolved as PEFT does, from the working directory.

    Raises:
        ValueError: if the file does not say, or names a revision of a model at huggingface.co or the folder
            itself.
        FileNotFoundError: if it names a path at which there is nothing.
    """
    fields = files.read_json(folder / CONFIG)
    path, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(
            f"{folder / CONFIG}: base_model_name_or_path is missing; write the base's path or name there"
        )
    if Path(path).exists():
        if model_folder.final(path).resolve() == folder.resolve():
            raise ValueError(
                f"{folder / CONFIG}: base_model_name_or_path is this folder; write the base's path there"
            )
        return path
    if path.startswith(("/", ".", "~")) or not hub.NAME.fullmatch(path):
        raise FileNotFoundError(
            f"{path} is missing, the base of the adapters in {folder}; put it back, or write its new path into {CONFIG}"
        )
    if revision not in (None, "main"):
        raise ValueError(
            f"{folder / CONFIG}: revision {revision!r:.60} of {path} is not the newest one; download it, and write its "
            "folder into base_model_name_or_path"
        )
    return path


def found(path: str | Path) -> Path | None:
    """Returns the folder, or its final_model, if it holds adapters."""
    folder = model_folder.final(path)
    return folder if (folder / CONFIG).is_file() else None


def chain(folder: Path) -> tuple[str, list[Path]]:
    """Follows the bases of adapters down to a whole model.

    Args:
        folder: with adapters.

    Returns:
        The path of the whole model, and the folders of adapters in the order in which they change it.

    Raises:
        ValueError: if the bases lead back to one of them, or PEFT wrote adapters over adapters, of which PEFT
            itself loads only the last.
        FileNotFoundError: as `base_path`.
    """
    folders = [folder]
    while True:
        path = base_path(folders[0])
        below = found(path)
        if below is None:
            return path, folders
        if below.resolve() in {x.resolve() for x in folders}:
            raise ValueError(f"{folders[0] / CONFIG}: base_model_name_or_path {path} leads back to {below}")
        if not (folders[0] / BASE).is_file():
            raise ValueError(
                f"{folders[0] / CONFIG}: base_model_name_or_path {path} holds adapters itself, which PEFT would lose "
                f"silently; run intro2llm merge --model_path {path} --output_dir MERGED, and write MERGED there"
            )
        folders.insert(0, below)


def of(folder: Path) -> Base:
    """Reads base.json.

    Raises:
        ValueError: if it is damaged; the field is named.
    """
    file = folder / BASE
    if not file.is_file():
        return Base()
    fields, names = files.read_json(file), dict(DTYPES)
    kinds = {"path": str, "digest": str, "quantized": bool, "dtype": str}
    for name, kind in kinds.items():
        if name in fields and not isinstance(fields[name], kind):
            raise ValueError(
                f"{file}: {name}: expected a {kind.__name__}, got {fields[name]!r:.60}; copy it again"
            )
    dtype = names.get(fields.get("dtype", "float32"))
    if dtype is None:
        raise ValueError(
            f"{file}: dtype: expected one of {', '.join(names)}, got {fields['dtype']!r:.60}; copy it again"
        )
    return Base(fields.get("path", ""), fields.get("digest", ""), fields.get("quantized", False), dtype)


def read(folder: Path, base: Tree, path: str) -> peft_weights.Adapters:
    """Reads the adapters of a folder.

    Args:
        folder: with adapter_config.json.
        base: the params that they belong to, in the dtype of their file or a wider one.
        path: where these came from, for messages.

    Returns:
        Adapters, checked against the base.

    Raises:
        ValueError: if a file is damaged, asks for what is not here, or belongs to another base.
        FileNotFoundError: if a file is missing.
    """
    fields, known = files.read_json(folder / CONFIG), of(folder)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).is_file():
        raise ValueError(
            f"{folder / PICKLE}: pickled weights are not read, as they can run any code; load them with PEFT, and save "
            f"them again, which writes {WEIGHTS}"
        )
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder / WEIGHTS} is missing; a folder with {CONFIG} has the adapters beside it"
        )
    if not _same(known.digest, base):
        raise ValueError(
            f"{folder}: the adapters were trained on {known.path}, and {path} has other weights now; put the "
            "base back that they belong to"
        )
    try:
        parsed = peft_config.parse(fields)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    found = model_folder.weights(folder, name=WEIGHTS)
    try:
        return peft_weights.read(parsed, found, hf.to_weights(base))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def merged(folder: Path, config: ModelConfig, base: Tree, path: str) -> tuple[ModelConfig, Tree]:
    """Merges the adapters of a folder into their base: the quantised one, if they were trained on that.

    Args:
        folder: with adapter_config.json.
        config: of the base.
        base: the params that they belong to.
        path: where these came from, for messages.

    Returns:
        The configuration, which differs where the adapters give the head weights of its own or the vocabulary
        another size, and params of the base's dtype.

    Raises:
        ValueError, FileNotFoundError: as `read`.
    """
    adapters, known = read(folder, base, path), of(folder)
    dtype = tree.leaves(base)[0].dtype
    if known.quantized:
        base = tree.cast(whole(quantize_layers(tree.cast(base, known.dtype))), torch.float32)
    weights = peft_apply.apply(adapters, hf.to_weights(base))
    tied, rows = "lm_head.weight" not in weights, weights["model.embed_tokens.weight"].shape[0]
    changed = dataclasses.replace(config, tie_word_embeddings=tied, vocab_size=rows)
    params = hf.from_weights(transformer(changed).spec, weights)
    return changed, tree.cast(params, dtype) if known.quantized else params


def digest(params: Tree) -> str:
    """Tells params apart by every number of every weight, in whatever dtype they are held.

    Args:
        params: of a model.

    Returns:
        "float32:" and a sha256 over the paths, the shapes and the numbers' bits in float32; weights are read
        by several threads at once.
    """
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        parts = list(pool.map(_hashed, tree.leaves(params)))
    leaves = zip(tree.paths(params), tree.leaves(params), parts, strict=True)
    digest = hash_blocks(f"{path} {tuple(x.shape)} {part}".encode() for path, x, part in leaves)
    return f"float32:{digest}"


def _hashed(x: torch.Tensor) -> str:
    """A sha256 of the numbers' bits in float32, made block by block."""
    return hash_blocks(memory(block.float().cpu()) for block in x.detach().flatten().split(BLOCK))


def _same(known: str, base: Tree) -> bool:
    """Compares a base with the digest in base.json: of this form, or of the one that earlier versions
    wrote."""
    return known == "" or known == (digest(base) if ":" in known else _sampled(base))


def _sampled(params: Tree) -> str:
    """The digest that earlier versions wrote: of the shape, and of a few numbers, of every weight."""
    leaves = zip(tree.paths(params), tree.leaves(params), strict=True)
    return hash_blocks(f"{path} {tuple(x.shape)} {_few_numbers(x)}".encode() for path, x in leaves)


def _few_numbers(x: torch.Tensor) -> list[float]:
    """Up to 65 numbers of a weight at even spacing, in bfloat16 and rounded to five decimals."""
    flat = x.detach().flatten()
    few = flat[:: max(1, flat.numel() // SAMPLE)][: SAMPLE + 1].float().cpu()
    return [round(float(v), 5) for v in few.to(torch.bfloat16)]
