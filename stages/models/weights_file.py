"""Write weights as safetensors, one at a time, so that rows of a model are gathered one leaf at a time.

The bytes are those that the library `safetensors` writes for the same tensors: eight bytes with the length
of the header, the header (JSON), then the tensors, the widest dtype first and by name within one (or in the
order that they are given in).

Source: the format of safetensors (README, "Format"); the order is that of its `prepare`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pure.parallel.rows import whole_leaf
from pure.serial.writer import memory

CODES = ((torch.float64, "F64"), (torch.float32, "F32"), (torch.bfloat16, "BF16"), (torch.float16, "F16"))
"""Dtypes of weights and their names in the format, in the order of the file."""


class WeightsFile(NamedTuple):
    """A file of weights that is to be written.

    Fields:
        name: of the file.
        tensors: names of its weights, in the order of its bytes.
        header: its first bytes.
    """

    name: str
    tensors: tuple[str, ...]
    header: bytes


def plan_files(
    weights: Mapping[str, Tensor], name: str, shard_bytes: int, *, by_name: bool = True
) -> list[WeightsFile]:
    """Divides weights among files, in their order: one file, or several of at least one weight each.

    Args:
        weights: tensors by name, whole or cut into rows.
        name: of the file, if there is one; several are NAME-00001-of-00003.safetensors.
        shard_bytes: largest size of the weights in a file, in bytes.
        by_name: order each file as the library safetensors does; False keeps the order of `weights`.

    Returns:
        The files.

    Raises:
        ValueError: for a weight that is no float64, float32, bfloat16 or float16.
    """
    parts: list[list[str]] = [[]]
    size = 0
    for weight, x in weights.items():
        nbytes = x.numel() * x.element_size()
        if parts[-1] and size + nbytes > shard_bytes:
            parts.append([])
            size = 0
        parts[-1].append(weight)
        size += nbytes
    stem, count = Path(name).stem, len(parts)
    names = [name] if count == 1 else [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    return [_plan_file(file, weights, members, by_name) for file, members in zip(names, parts, strict=True)]


def read_leaves(files: Sequence[WeightsFile], weights: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yields every weight whole, on the CPU, in the order of the files; one is in memory at a time.

    Weights that are cut into rows are gathered: then all processes must go through all of them.

    Args:
        files: from `plan_files`.
        weights: tensors by name.

    Yields:
        A contiguous tensor.
    """
    for file in files:
        for name in file.tensors:
            yield whole_leaf(weights[name].detach()).cpu().contiguous()


def write(folder: Path, files: Sequence[WeightsFile], leaves: Iterator[Tensor]) -> None:
    """Writes the files.

    Args:
        folder: exists.
        files: from `plan_files`.
        leaves: from `read_leaves`.

    Raises:
        OSError: if the disk refuses.
    """
    for file in files:
        with (folder / file.name).open("xb") as stream:
            stream.write(file.header)
            for _ in file.tensors:
                stream.write(memory(next(leaves)))


def _plan_file(
    name: str, weights: Mapping[str, Tensor], members: Sequence[str], by_name: bool
) -> WeightsFile:
    """The header of a file, and the order of its weights."""
    dtypes, codes = [dtype for dtype, _ in CODES], dict(CODES)
    if wrong := [x for x in members if weights[x].dtype not in codes]:
        raise ValueError(
            f"weights of {', '.join(map(str, codes))} are written, got {weights[wrong[0]].dtype} in "
            f"{wrong[0]}"
        )
    ordered = sorted(members, key=lambda x: (dtypes.index(weights[x].dtype), x)) if by_name else members
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for weight in ordered:
        x = weights[weight]
        end = offset + x.numel() * x.element_size()
        fields[weight] = {"dtype": codes[x.dtype], "shape": list(x.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return WeightsFile(name, tuple(ordered), len(text).to_bytes(8, "little") + text)
