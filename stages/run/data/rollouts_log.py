"""Record the rollouts of a sampler that cannot repeat them, and return them to whoever asks for the same.

A run that is killed and resumed, or a step that is replayed, then has the completions that it had, bit for
bit, and does not need the sampler for them. rollouts.jsonl has one line a call; tokens and log-probabilities
are the bytes of int32 and float32 numbers in base64, about 11 characters a token.

Shape letters: B rows, M new tokens at most.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipes.digest import hash_bytes
from data_pipes.files import writing
from pure import tree
from pure.types import Tree
from stages.online import Rollout
from stages.rollout import Rollouts, arrange, repeat_prompts
from stages.run.vllm_weights import checksum

NAME = "rollouts.jsonl"
_START = re.compile(rb'\{"id": "([0-9a-f]{64})", ')
"""Beginning of a line."""


def record_rollouts(sample: Rollout, path: Path, *, stop_tokens: tuple[int, ...]) -> Rollout:
    """Return a sampler that writes down every batch of completions, and reads one that it has written.

    Two calls are the same if params, prompts and key are.

    Args:
        sample: (params, batch, key) -> Rollouts.
        path: the file, made with the first line; a last line that a kill cut off is removed.
        stop_tokens: ids that end a completion.

    Returns:
        A sampler; it calls `sample` for completions that are not in the file.

    Raises:
        ValueError: in a call, for a damaged line; it names the file and the line.
        OSError: in a call, if the file cannot be written.
    """
    return partial(_sample_once, sample=sample, path=path, stop_tokens=stop_tokens, places={})


def _sample_once(
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    sample: Rollout,
    path: Path,
    stop_tokens: tuple[int, ...],
    places: dict[str, int],
) -> Rollouts:
    """Read the completions, or sample and write them. `places` has the offset of each line."""
    if not places:
        places.update(_index_lines(path))
    name = _identify(params, batch, key)
    if name in places:
        return _read(path, places[name], batch, stop_tokens)
    rollouts = sample(params, batch, key)
    places[name] = _append(path, name, rollouts)
    return rollouts


def _identify(params: Tree, batch: Tree, key: Tensor) -> str:
    """A digest of all that the completions depend on."""
    weights = checksum({str(i): leaf for i, leaf in enumerate(tree.leaves(params))})
    prompts = [batch[name].tolist() for name in ("prompts", "lengths", "row")]
    return hash_bytes(json.dumps([weights, prompts, key.tolist()]).encode())


def _index_lines(path: Path) -> Iterator[tuple[str, int]]:
    """The name and offset of each line; a last one that was cut off is removed from the file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        offset = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            match = _START.match(line)
            if match is None:
                raise ValueError(f"{path}:{number}: expected rollouts, got {line[:40]!r}; delete the line")
            yield match[1].decode(), offset
            offset += len(line)
    if offset != path.stat().st_size:
        with writing(path):
            os.truncate(path, offset)


def _append(path: Path, name: str, rollouts: Rollouts) -> int:
    """Write one line, and return its offset."""
    width = rollouts.mask.shape[1]
    lengths = rollouts.mask.sum(1)
    fields = {
        "id": name,
        "lengths": lengths.tolist(),
        "tokens": _encode(rollouts.tokens[:, -width:][rollouts.mask].to(torch.int32)),
        "logps": _encode(rollouts.logps[rollouts.mask].to(torch.float32)),
        "longest": width,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), path.open("ab") as file:
        offset = file.tell()
        file.write((json.dumps(fields) + "\n").encode())
    return offset


def _read(path: Path, offset: int, batch: Tree, stop_tokens: tuple[int, ...]) -> Rollouts:
    """The rollouts of the line at this offset."""
    with path.open("rb") as file:
        file.seek(offset)
        line = file.readline()
    try:
        fields = json.loads(line)
        lengths, longest = torch.tensor(fields["lengths"]), fields["longest"]
        mask = torch.arange(longest) < lengths[:, None]
        tokens = torch.zeros(len(lengths), longest, dtype=torch.int64)
        tokens[mask] = _decode(fields["tokens"], torch.int32).long()
        logps = torch.zeros(len(lengths), longest)
        logps[mask] = _decode(fields["logps"], torch.float32)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{path}: the line at byte {offset} is damaged ({str(error)[:80]}); delete it, and its "
            "completions are sampled again"
        ) from None
    device = batch["prompts"].device
    prompts, prompt_lengths, row = repeat_prompts(batch, len(lengths) // len(batch["row"]))
    tokens, lengths, logps = (x.to(device) for x in (tokens, lengths, logps))
    return arrange(prompts, prompt_lengths, tokens, lengths, logps, row, stop_tokens)


def _encode(numbers: Tensor) -> str:
    """Numbers [n] as base64."""
    return base64.b64encode(numbers.cpu().contiguous().view(torch.uint8).numpy().tobytes()).decode()


def _decode(text: Any, dtype: torch.dtype) -> Tensor:
    """Numbers [n] from base64."""
    data = base64.b64decode(text, validate=True)
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.zeros(0, dtype=dtype)
