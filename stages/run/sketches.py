"""Sketches of the training rows' gradients on disk, so that a new query costs one gradient.

The gradients of a corpus cost as much as an epoch of training, and have as many numbers each as the model. A
sketch of K numbers keeps inner products (`pure.transform.sketch`), so the folder is computed once:

    sketches.bin    [R, K] little-endian float32
    manifest.json   rows of each batch so far, K, and what the sketches were computed from

Shape letters: R rows, Q queries, K numbers of a sketch.

Park et al., "TRAK: Attributing Model Behavior at Scale", 2023.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipes.files import make_folder, read_json, sync_file, write_json, writing
from pure.plural import count_noun
from pure.transform.accumulate import Loss
from pure.transform.sketch import count_sketch, projected
from pure.types import Tree
from stages.checkpoint.fingerprint import describe

DATA, MANIFEST = "sketches.bin", "manifest.json"


def cached_sketches(
    folder: str | os.PathLike[str],
    loss: Loss,
    params: Tree,
    batches: Sequence[Tree],
    *,
    key: Tensor,
    dim: int,
    chunk: int | None = None,
    say: Callable[[str], Any] | None = None,
) -> Tensor:
    """Computes the sketches of all rows, or reads them from disk.

    Batch by batch, so that a killed run resumes after the last one that it finished.

    Args:
        folder: where they are kept; made if it does not exist.
        loss: of a stage, `stages.stage.loss_of(stage)`; without dropout.
        params: the trained params; for LoRA the adapters.
        batches: the training rows, such as a pipe.
        key: [2] uint32, of the projection; queries need the same (`score_queries`).
        dim: K >= 1. An inner product has the standard error |a| |b| / √K or so.
        chunk: rows whose gradients are in memory at a time, as in `per_sample_grad`.
        say: called with a line of progress after each new batch; None prints nothing.

    Returns:
        [R, K] float32, memory-mapped: it may be larger than memory.

    Steps:
        1. Compare the folder with what would be computed; cut off a batch that was not finished.
        2. Compute and append the missing batches.
        3. Map the file.

    Raises:
        ValueError: if the folder holds sketches of something else (another loss, params, key, dim or rows);
            the message names the entries that differ; if the file is damaged.
        OSError: if it cannot be written.
    """
    path = Path(folder)
    # 1. Folder.
    described = describe({"loss": loss, "params": params, "key": key, "dim": dim}, batches)
    counts = _read_counts(path, described)
    if counts and (path / DATA).stat().st_size < 4 * dim * sum(counts):
        raise ValueError(f"{path / DATA}: shorter than {MANIFEST} says; it is damaged, so delete the folder")
    sketch = projected(loss, key, dim, chunk=chunk)
    # 2. Missing batches.
    if len(counts) < len(batches):
        make_folder(path)
        with writing(path / DATA), (path / DATA).open("ab") as file:
            file.truncate(4 * dim * sum(counts))
            for i in range(len(counts), len(batches)):
                rows = sketch(params, batches[i], None).detach().float().cpu().contiguous()
                file.write(_bytes_of(rows))
                sync_file(file)
                counts.append(len(rows))
                write_json(path / MANIFEST, {"rows": counts, "dim": dim, "made from": described})
                if say:
                    done = count_noun(sum(counts), "row")
                    say(f"sketches: {i + 1} of {count_noun(len(batches), 'batch', 'batches')}, {done}")
    # 3. Map.
    mapped = np.memmap(path / DATA, "<f4", "c", shape=(sum(counts), dim))
    return torch.from_numpy(mapped)


def score_queries(sketches: Tensor, directions: Tree, *, key: Tensor) -> Tensor:
    """Computes the influence of rows on queries from the rows' sketches.

    Args:
        sketches: [R, K], of `cached_sketches`.
        directions: tree like the params with a leading axis [Q]: `stages.influence.query_directions(...)`,
            with any preconditioner, as only the rows are cached.
        key: [2] uint32, that of the sketches.

    Returns:
        [R, Q] float32, an unbiased estimate of `stages.influence.influence`.
    """
    queries = count_sketch(directions, key, sketches.shape[1])
    return sketches @ queries.to(device=sketches.device, dtype=sketches.dtype).T


def _read_counts(path: Path, described: dict[str, str]) -> list[int]:
    """The rows of each batch on disk; none for a new folder."""
    if not (path / MANIFEST).exists():
        return []
    manifest = read_json(path / MANIFEST)
    before = manifest["made from"]
    different = sorted(name for name in {**before, **described} if before.get(name) != described.get(name))
    if different:
        shown = "; ".join(f"{n}: {before.get(n)}, now {described.get(n)}" for n in different[:3])
        raise ValueError(
            f"{path}: sketches of something else ({shown}; different entries: {len(different)}); give "
            "another folder"
        )
    return list(manifest["rows"])


def _bytes_of(rows: Tensor) -> bytes:
    """The rows as little-endian float32."""
    array = rows.numpy()
    return (array if sys.byteorder == "little" else array.byteswap()).tobytes()
