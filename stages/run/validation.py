"""Validation: how many bits the model needs for each byte of text that it never saw.

Bits per byte compare models with different tokenizers, and with gzip and xz.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from data_pipes.types import Pipe
from pure import tree
from pure.loss.cross_entropy import cross_entropy
from pure.types import Model, Tree


class Compressors(NamedTuple):
    """Bits per byte of the usual compressors on the same text, each file set as one stream."""

    gzip: float
    xz: float


def bits_per_byte(model: Model, batches: Pipe, nbytes: int, *, dtype: torch.dtype) -> Callable[[Tree], dict]:
    """Makes the function that a run validates with.

        val_loss = Σ nll / tokens          nats a token
        val_bpb  = Σ nll / (bytes ln 2)    bits a byte

    Args:
        model: whose forward is asked.
        batches: held-out {"tokens", "labels"}; each token that counts has its label in exactly one row.
        nbytes: UTF-8 bytes of the text that the labels spell.
        dtype: of the products.

    Returns:
        params -> {"val_loss", "val_bpb"}.
    """
    return partial(_bits_per_byte, model=model, batches=batches, nbytes=nbytes, dtype=dtype)


def compressors(text: bytes) -> Compressors:
    """Compresses `text` by gzip -9 and xz -9e, bits per byte.

    Example:
        >>> compressors(b"a" * 10000).gzip < 0.1
        True
    """
    packed = gzip.compress(text, 9, mtime=0), lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    return Compressors(*(8 * len(data) / len(text) for data in packed))


def _bits_per_byte(params: Tree, *, model: Model, batches: Pipe, nbytes: int, dtype: torch.dtype) -> dict[str, float]:
    """One pass over the batches; the sums are kept in float64, and read once."""
    narrow = tree.cast(params, dtype)
    device = tree.leaves(params)[0].device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for number in range(len(batches)):
            batch = tree.map(lambda x: x.to(device), batches[number])
            where = {name: batch[name] for name in ("positions", "segment_ids") if name in batch}
            sums += torch.stack(cross_entropy(model.forward(narrow, batch["tokens"], **where), batch["labels"]))
    nats, tokens = sums.tolist()
    return {"val_loss": nats / tokens, "val_bpb": nats / (nbytes * math.log(2))}
