"""The files of a model's folder: written whole or not at all, read mapped."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from stages.models import shards

SHARD_BYTES = 5 * 10**9
"""Of a file of weights at most: what the hub takes without complaint, and a laptop copies in one go."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST = 500
"""Letters of a message."""

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def find_final_model(path: str | Path) -> Path:
    """Returns the folder itself, or its final_model if it is a run's."""
    folder = Path(path)
    return folder / "final_model" if (folder / "final_model").is_dir() else folder


def one_line_error(path: str | Path, error: Exception) -> ValueError:
    """Makes an error of a file's content one line of moderate length that names the file.

    Example:
        >>> one_line_error("a/config.json", ValueError("fields not understood: x   y"))
        ValueError('a/config.json: fields not understood: x y')
    """
    text = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    return ValueError(f"{path}: {text if len(text) <= LONGEST else text[:LONGEST] + ' ...'}")


def write(
    folder: str | Path,
    texts: Mapping[str, str],
    weights: Mapping[str, torch.Tensor],
    tokenizer: tokenizers.Tokenizer,
    *,
    name: str = WEIGHTS,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a model's folder, whole or not at all.

    Args:
        folder: is made or replaced.
        texts: of the small files, by name.
        weights: tensors by Hugging Face's names.
        tokenizer: written as tokenizer.json.
        name: of the file of weights.
        shard_bytes: of a file of weights at most; where one would be larger there are several, and an index.

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
        for file, text in texts.items():
            (partial / file).write_text(text, encoding="utf-8")
        _write_weights(partial, weights, name, shard_bytes)
        tokenizers.save(tokenizer, partial)
        files.sync_contents(partial)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        files.publish_folder(partial, folder, aside=old)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            getattr(error, "errno", None) or 0,
            f"cannot write {folder}: {getattr(error, 'strerror', None) or error}; make room there, and run the same "
            "command again: the state is saved",
        ) from error
    return folder


def read_weights(
    folder: Path, dtype: torch.dtype | None = None, *, name: str = WEIGHTS
) -> dict[str, torch.Tensor]:
    """Every tensor of the folder, mapped: a page is read when it is used, and copied when it is written to.

    What is converted is read from a map of its own, so that no more than one weight is held twice.

    Args:
        folder: with model.safetensors, or shards and their index, which says what is taken from where.
        dtype: of the tensors; None keeps the file's, and widens those of several to the widest, which loses
            nothing.
        name: of the file, where there are no shards.

    Returns:
        {name: tensor}.

    Raises:
        FileNotFoundError: if the index names a file that is not there.
        ValueError: if a file is damaged, does not fit its index, or holds what is no floating-point weight.
    """
    files = shards.locate_tensors(folder, name)
    known = {tensor for tensors in files.values() for tensor in tensors or ()}
    found: dict[str, torch.Tensor] = {}
    places: dict[str, Path] = {}
    for path, tensors in files.items():
        try:
            with safe_open(str(path), framework="pt") as file:
                names = shards.select_tensors(path, tensors, list(file.keys()), known)
                weights = {tensor: _floating(path, tensor, file.get_tensor(tensor)) for tensor in names}
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not a sound safetensors file ({error}); copy it again from its source"
            ) from None
        found |= {tensor: _converted(path, tensor, x, dtype) for tensor, x in weights.items()}
        places |= dict.fromkeys(weights, path)
    kinds = {x.dtype for x in found.values()}
    if len(kinds) > 1:
        widest = functools.reduce(torch.promote_types, kinds)
        found = {tensor: _converted(places[tensor], tensor, x, widest) for tensor, x in found.items()}
    return found


def _write_weights(folder: Path, weights: Mapping[str, torch.Tensor], name: str, shard_bytes: int) -> None:
    """One file, or as many as needed and an index: filled in the order of the weights, each with one at
    least."""
    parts: list[list[str]] = [[]]
    size = 0
    for weight, x in weights.items():
        if parts[-1] and size + x.nbytes > shard_bytes:
            parts.append([])
            size = 0
        parts[-1].append(weight)
        size += x.nbytes
    stem, several = Path(name).stem, len(parts) > 1
    places: dict[str, str] = {}
    for number, members in enumerate(parts, 1):
        file = f"{stem}-{number:05}-of-{len(parts):05}.safetensors" if several else name
        tensors = {weight: weights[weight].detach().cpu().contiguous() for weight in members}
        save_file(tensors, str(folder / file), metadata={"format": "pt"})
        places |= dict.fromkeys(members, file)
    if several:
        total = sum(x.nbytes for x in weights.values())
        files.write_json(
            folder / f"{name}.index.json", {"metadata": {"total_size": total}, "weight_map": places}
        )


def _floating(path: Path, name: str, x: torch.Tensor) -> torch.Tensor:
    """The tensor, if it is of a floating dtype that stands for itself: not float8, nor whole numbers, with
    scales."""
    if x.dtype not in FLOATING:
        raise ValueError(
            f"{path}: {name} is {str(x.dtype).removeprefix('torch.')}; quantised weights are not read, take the "
            "model's unquantised folder (float32, bfloat16 or float16)"
        )
    return x


def _converted(path: Path, name: str, mapped: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The mapped tensor, if it is of that dtype; else a copy, read from a map that is closed again."""
    if dtype in (None, mapped.dtype):
        return mapped
    with safe_open(str(path), framework="pt") as file:
        return file.get_tensor(name).to(dtype)
