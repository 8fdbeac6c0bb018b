"""The hash of random numbers as one operator of a traced graph.

Threefry is 130 operations, and a training step hashes several times: without this a third of a traced step is
hashes. The operator exists in graphs that are lowered to JAX only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pure.random.threefry import HASH, threefry2x32


@contextmanager
def one_operator() -> Iterator[None]:
    """Records `pure.random.threefry.threefry2x32` as one operator in what is traced inside."""
    token = HASH.set(_call)
    try:
        yield
    finally:
        HASH.reset(token)


def _call(key0: Tensor, key1: Tensor, x0: Tensor | int, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Calls the operator."""
    high = x0 if isinstance(x0, Tensor) else torch.full((), x0, dtype=torch.int32, device=x1.device)
    return torch.ops.intro2llm.threefry2x32(key0, key1, high, x1)


def _compute(key0: Tensor, key1: Tensor, x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Computes it by torch's operations, where all arguments are constants of a graph."""
    token = HASH.set(None)
    try:
        return threefry2x32(key0, key1, x0, x1)
    finally:
        HASH.reset(token)


def _empty_results(*words: Tensor) -> tuple[Tensor, Tensor]:
    """Two results without values, of the broadcast shape."""
    shape = torch.broadcast_shapes(*(x.shape for x in words))
    return words[0].new_empty(shape), words[0].new_empty(shape)


def _batched(info: Any, in_dims: tuple[int | None, ...], *words: Tensor) -> tuple[Any, tuple[int, int]]:
    """Hashes under vmap: the mapped axis comes first, and the other axes broadcast."""
    axes = max(x.ndim - (dim is not None) for x, dim in zip(words, in_dims, strict=True))
    aligned = []
    for x, dim in zip(words, in_dims, strict=True):
        if dim is None:
            aligned.append(x)
            continue
        first = x.movedim(dim, 0)
        aligned.append(first.reshape(first.shape[0], *[1] * (axes - first.ndim + 1), *first.shape[1:]))
    return torch.ops.intro2llm.threefry2x32(*aligned), (0, 0)


torch.library.define(
    "intro2llm::threefry2x32", "(Tensor key0, Tensor key1, Tensor x0, Tensor x1) -> (Tensor, Tensor)"
)
torch.library.impl("intro2llm::threefry2x32", "CompositeExplicitAutograd", _compute)
torch.library.register_fake("intro2llm::threefry2x32", _empty_results)
torch.library.register_vmap("intro2llm::threefry2x32", _batched)
