"""Write a model's folder atomically; read its weights memory-mapped, and its tokenizer."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from data_pipes import files
from data_pipes import tokenizer as tokenizers
from pure.parallel.rows import group_of_rows, is_cut
from stages.checkpoint.agreement import agree, is_first
from stages.models import shards, special_tokens, template_files, weights_file
from stages.models.hub import CARD
from stages.models.special_tokens import NONE, SpecialTokens
from stages.models.template_files import Templates
from stages.models.weights_file import WeightsFile

SHARD_BYTES = 5 * 10**9
"""Largest size of a file of weights: the hub accepts it, and a laptop copies it at once."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MESSAGE_LENGTH = 500
"""Largest number of characters of a message."""

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def find_final_model(path: str | Path) -> Path:
    """Returns the folder itself, or its final_model if it is a run's."""
    folder = Path(path)
    return folder / "final_model" if (folder / "final_model").is_dir() else folder


def one_line_error(path: str | Path, error: Exception) -> ValueError:
    """Returns an error about a file's contents as a message of one line that names the file.

    Example:
        >>> one_line_error("a/config.json", ValueError("fields not understood: x   y"))
        ValueError('a/config.json: fields not understood: x y')
    """
    text = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
    return ValueError(f"{path}: {text if len(text) <= MESSAGE_LENGTH else text[:MESSAGE_LENGTH] + ' ...'}")


def write(
    folder: str | Path,
    texts: Mapping[str, str],
    weights: Mapping[str, torch.Tensor],
    tokenizer: tokenizers.Tokenizer,
    *,
    name: str = WEIGHTS,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Writes a model's folder atomically: complete, or not at all.

    Args:
        folder: the folder to make or replace.
        texts: contents of the small files, by name.
        weights: tensors by Hugging Face's names. Of weights that are cut into rows all processes make this
            call; they are gathered one at a time, and the first process writes.
        tokenizer: written as tokenizer.json.
        name: name of the file of weights.
        shard_bytes: largest size of a file of weights; larger weights become several files and an index.

    Returns:
        The folder.

    Raises:
        OSError: if the disk refuses; an older folder stays. All processes raise it.
    """
    group = group_of_rows(weights) if is_cut(dict(weights)) else None
    planned = weights_file.plan_files(weights, name, shard_bytes)
    leaves = weights_file.read_leaves(planned, weights)
    error = None
    if is_first(group):
        try:
            write_with(
                folder, texts, tokenizer, lambda part: _write_weights(part, name, planned, weights, leaves)
            )
        except Exception as raised:
            error = raised
    for _ in leaves:  # of weights in rows: the others take part in gathering what is left, whatever failed
        pass
    agree(group, error)
    return Path(folder)


def write_with(
    folder: str | Path,
    texts: Mapping[str, str],
    tokenizer: tokenizers.Tokenizer,
    write_params: Callable[[Path], None],
) -> Path:
    """Writes a model's folder atomically, with a function that writes the weights.

    Args:
        folder, texts, tokenizer: as in `write`.
        write_params: takes the unfinished folder.

    Returns:
        The folder. The model card of an older one, which users edit, is in it; `intro2llm card` writes its
        generated sections anew, and `intro2llm push` refuses a card of other weights.

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
        write_params(partial)
        tokenizers.save(tokenizer, partial)
        if (folder / CARD).is_file():
            shutil.copyfile(folder / CARD, partial / CARD)
        files.sync_contents(partial)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        files.publish_folder(partial, folder, aside=old)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            getattr(error, "errno", None) or 0,
            f"cannot write {folder}: {getattr(error, 'strerror', None) or error}; make room there, and run "
            "the same command again: the state is saved",
        ) from error
    return folder


def read_weights(
    folder: Path, dtype: torch.dtype | None = None, *, name: str = WEIGHTS
) -> dict[str, torch.Tensor]:
    """Memory-maps every tensor of the folder: a page is read on first use, and copied on write.

    A tensor that is converted is read from a map of its own, so that at most one weight is in memory twice.

    Args:
        folder: a folder with model.safetensors, or shards and their index.
        dtype: dtype of the tensors; None keeps the files' dtype, or the widest if there are several.
        name: name of the file, where there are no shards.

    Returns:
        {name: tensor}.

    Raises:
        FileNotFoundError: if the index names a file that is not there.
        ValueError: if a file is damaged, does not fit its index, or has a tensor that is no floating-point
            weight.
    """
    located = shards.locate_tensors(folder, name)
    all_names = {tensor for tensors in located.values() for tensor in tensors or ()}
    weights: dict[str, torch.Tensor] = {}
    origins: dict[str, Path] = {}
    for path, tensors in located.items():
        try:
            with safe_open(str(path), framework="pt") as file:
                names = shards.select_tensors(path, tensors, list(file.keys()), all_names)
                mapped = {tensor: file.get_tensor(tensor) for tensor in names}
        except SafetensorError as error:
            raise ValueError(
                f"{path}: not a sound safetensors file ({error}); copy it again from its source"
            ) from None
        for tensor, x in mapped.items():
            _check_floating(path, tensor, x)
        weights |= {tensor: _convert(path, tensor, x, dtype) for tensor, x in mapped.items()}
        origins |= dict.fromkeys(mapped, path)
    dtypes = {x.dtype for x in weights.values()}
    if len(dtypes) > 1:
        widest = functools.reduce(torch.promote_types, dtypes)
        weights = {tensor: _convert(origins[tensor], tensor, x, widest) for tensor, x in weights.items()}
    return weights


def read_tokenizer(
    folder: Path, rows: int, base: SpecialTokens = NONE
) -> tuple[tokenizers.Tokenizer, SpecialTokens, Templates]:
    """Reads the tokenizer, special tokens and chat templates of a folder.

    Args:
        folder: a folder with tokenizer.json.
        rows: number of rows of the model's embedding.
        base: for a folder of adapters, the special tokens of their base model.

    Returns:
        (tokenizer, special tokens, chat templates).

    Raises:
        FileNotFoundError: if there is no tokenizer.
        ValueError: if a file is not understood; it is named.
    """
    tokenizer = tokenizers.load(folder)
    special, tokenizer = special_tokens.read(folder, tokenizer, rows, base=base)
    return tokenizer, special, template_files.read(folder)


def _write_weights(
    folder: Path,
    name: str,
    planned: Sequence[WeightsFile],
    weights: Mapping[str, torch.Tensor],
    leaves: Iterator[torch.Tensor],
) -> None:
    """Writes the files of weights and, if there are several, their index."""
    weights_file.write(folder, planned, leaves)
    if len(planned) > 1:
        total = sum(x.numel() * x.element_size() for x in weights.values())
        file_of = {weight: file.name for file in planned for weight in weights if weight in file.tensors}
        files.write_json(
            folder / f"{name}.index.json", {"metadata": {"total_size": total}, "weight_map": file_of}
        )


def _check_floating(path: Path, name: str, x: torch.Tensor) -> None:
    """Refuses a quantised tensor: float8 or integers, whose values need scales."""
    if x.dtype not in FLOATING:
        raise ValueError(
            f"{path}: {name} is {str(x.dtype).removeprefix('torch.')}; quantised weights are not read, take "
            "the model's unquantised folder (float32, bfloat16 or float16)"
        )


def _convert(path: Path, name: str, mapped: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The mapped tensor, if it has that dtype; else a converted copy, read from a temporary map."""
    if dtype in (None, mapped.dtype):
        return mapped
    with safe_open(str(path), framework="pt") as file:
        return file.get_tensor(name).to(dtype)
