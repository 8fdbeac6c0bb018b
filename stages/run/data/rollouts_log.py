"""Record the rollouts of a sampler that cannot repeat them, and return them to whoever asks for the same.

A run that is killed and resumed, or a step that is replayed, then has the completions that it had, bit for
bit, and does not need the sampler for them. rollouts.jsonl has one line a call (those of several processes
have a file each); tokens and log-probabilities are the bytes of int32 and float32 numbers in base64, about 11
characters a token.

Shape letters: N prompts, G samples of each, B = N G rows, M new tokens at most.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from data_pipes.digest import hash_bytes
from data_pipes.files import writing
from pure import tree
from pure.types import Tree
from stages.online import Rollout
from stages.rollout import Rollouts, arrange, repeat_prompts
from stages.run.sampling_group import find_group, is_on_all
from stages.run.vllm_weights import sum_bits

NAME = "rollouts.jsonl"
"""File of the first process; process 2 has rollouts-2.jsonl."""

_START = re.compile(rb'\{"id": "([0-9a-f]{64})", ')
"""Beginning of a line."""

Places = dict[str, list[tuple[Path, int]]]
"""id -> the files and offsets of its lines."""


class Recorded(NamedTuple):
    """The completions of one line.

    Fields:
        prompts: [N], row and checksum of each prompt.
        samples: G.
        longest: M.
        tokens, logps: [B], a list a completion.
    """

    prompts: list[tuple[int, int]]
    samples: int
    longest: int
    tokens: list[Tensor]
    logps: list[Tensor]


def record_rollouts(sample: Rollout, folder: Path, *, settings: str, stop_tokens: tuple[int, ...]) -> Rollout:
    """Return a sampler that writes down every batch of completions, and reads those that were written.

    Completions are the same if every bit of the params, the key, the settings and the prompt are. They are
    found in the files of all processes, whichever of them had the prompt.

    Args:
        sample: (params, batch, key) -> Rollouts.
        folder: of the run; its files are made with their first lines, and a last line that a kill cut off is
            removed.
        settings: a description of the sampler's settings.
        stop_tokens: ids that end a completion.

    Returns:
        A sampler. It calls `sample` unless all completions, on all processes, are in the files.

    Raises:
        ValueError: in a call, for a damaged line; it names the file and the line.
        OSError: in a call, if the file cannot be written.
    """
    return partial(
        _sample_once, sample=sample, folder=folder, settings=settings, stop_tokens=stop_tokens, places={}
    )


def _sample_once(
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    sample: Rollout,
    folder: Path,
    settings: str,
    stop_tokens: tuple[int, ...],
    places: Places,
) -> Rollouts:
    """Read the completions, or sample and write them."""
    own = folder / (NAME if (rank := find_group().rank) == 0 else f"rollouts-{rank}.jsonl")
    if not places:
        places.update(_index_files(folder, own))
    name = _identify(params, key, settings)
    prompts = _describe_prompts(batch)
    recorded = [_read_line(path, offset) for path, offset in places.get(name, [])]
    found = _find(recorded, prompts, batch, stop_tokens)
    if is_on_all(found is not None) and found is not None:
        return found
    rollouts = sample(params, batch, key)
    places.setdefault(name, []).append((own, _append(own, name, prompts, rollouts)))
    return rollouts


def _identify(params: Tree, key: Tensor, settings: str) -> str:
    """A digest of all but the prompts that completions depend on."""
    weights = sum_bits({str(i): leaf for i, leaf in enumerate(tree.leaves(params))})
    return hash_bytes(json.dumps([weights, key.tolist(), settings]).encode())


def _describe_prompts(batch: Tree) -> list[tuple[int, int]]:
    """Row and checksum of each prompt."""
    tokens, lengths = batch["prompts"].to(torch.int64).cpu(), batch["lengths"].tolist()
    sums = [crc32(row[:length].numpy().tobytes()) for row, length in zip(tokens, lengths, strict=True)]
    return list(zip(batch["row"].tolist(), sums, strict=True))


def _find(
    recorded: list[Recorded], prompts: list[tuple[int, int]], batch: Tree, stop_tokens: tuple[int, ...]
) -> Rollouts | None:
    """The rollouts of these prompts, or None if any is missing."""
    if not recorded:
        return None
    samples, longest = recorded[-1].samples, recorded[-1].longest
    rows: dict[tuple[int, int], tuple[Recorded, int]] = {}
    for line in recorded:  # of two records the later one, as the files are ordered
        rows.update({prompt: (line, n) for n, prompt in enumerate(line.prompts)})
    if any(prompt not in rows for prompt in prompts):
        return None
    size = len(prompts) * samples
    tokens, logps = torch.zeros(size, longest, dtype=torch.int64), torch.zeros(size, longest)
    lengths = torch.zeros(size, dtype=torch.int64)
    for b in range(size):
        line, n = rows[prompts[b // samples]]
        i = n * samples + b % samples
        lengths[b] = len(line.tokens[i])
        tokens[b, : lengths[b]], logps[b, : lengths[b]] = line.tokens[i].long(), line.logps[i]
    padded, prompt_lengths, row = repeat_prompts(batch, samples)
    parts = [x.to(padded.device) for x in (tokens, lengths, logps)]
    return arrange(padded, prompt_lengths, parts[0], parts[1], parts[2], row, stop_tokens)


def _index_files(folder: Path, own: Path) -> Places:
    """The places of all lines in the folder; a last one that was cut off is removed from the own file."""
    places: Places = {}
    for path in sorted(folder.glob("rollouts*.jsonl")):
        lines = list(_index_lines(path))
        for name, offset, _ in lines:
            places.setdefault(name, []).append((path, offset))
        end = lines[-1][-1] if lines else 0
        if path == own and end != path.stat().st_size:
            with writing(path):
                os.truncate(path, end)
    return places


def _index_lines(path: Path) -> Iterator[tuple[str, int, int]]:
    """The name, beginning and end of each complete line."""
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            match = _START.match(line)
            if match is None:
                raise ValueError(f"{path}:{number}: expected rollouts, got {line[:40]!r}; delete the line")
            yield match[1].decode(), offset, offset + len(line)
            offset += len(line)


def _append(path: Path, name: str, prompts: list[tuple[int, int]], rollouts: Rollouts) -> int:
    """Write one line, and return its offset."""
    width = rollouts.mask.shape[1]
    fields = {
        "id": name,
        "prompts": prompts,
        "lengths": rollouts.mask.sum(1).tolist(),
        "longest": width,
        "tokens": _encode(rollouts.tokens[:, -width:][rollouts.mask].to(torch.int32)),
        "logps": _encode(rollouts.logps[rollouts.mask].to(torch.float32)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("ab") as file:
        offset = file.tell()
        file.write((json.dumps(fields) + "\n").encode())
    return offset


def _read_line(path: Path, offset: int) -> Recorded:
    """The completions of the line at this offset."""
    with path.open("rb") as file:
        file.seek(offset)
        line = file.readline()
    try:
        fields = json.loads(line)
        lengths, prompts = fields["lengths"], [(row, mark) for row, mark in fields["prompts"]]
        tokens = _decode(fields["tokens"], torch.int32).split(lengths)
        logps = _decode(fields["logps"], torch.float32).split(lengths)
        samples, rest = divmod(len(lengths), len(prompts))
        if rest or max(lengths) > fields["longest"]:
            raise ValueError(f"{len(lengths)} completions of {len(prompts)} prompts")
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: the line at byte {offset} is damaged ({str(error)[:80]}); delete it, and its "
            "completions are sampled again"
        ) from None
    return Recorded(prompts, samples, fields["longest"], list(tokens), list(logps))


def _encode(numbers: Tensor) -> str:
    """Numbers [n] as base64."""
    return base64.b64encode(numbers.cpu().contiguous().view(torch.uint8).numpy().tobytes()).decode()


def _decode(text: Any, dtype: torch.dtype) -> Tensor:
    """Numbers [n] from base64."""
    data = base64.b64decode(text, validate=True)
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.zeros(0, dtype=dtype)
