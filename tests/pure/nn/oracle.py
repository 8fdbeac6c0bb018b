"""A reference for attention: in float64, one row and one head at a time; and cases to compare with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pure import random


class Case(NamedTuple):
    """Sizes of the tensors (lengths of queries and keys, heads, head size), and optional arguments."""

    length: int
    keys: int
    heads: int
    key_heads: int
    width: int
    start: bool = False  # queries start after some cached keys
    packed: bool = False  # with segment_ids
    dropped: bool = False  # with a dropout mask


class Problem(NamedTuple):
    """Tensors of a case: q, k, v, the cotangent of the output, and optional arguments by name."""

    q: Tensor
    k: Tensor
    v: Tensor
    cotangent: Tensor
    extras: dict[str, Tensor]


CASES = (
    Case(1, 1, 2, 1, 4),
    Case(7, 7, 4, 4, 6),  # multi-head, an odd length
    Case(67, 67, 4, 2, 8),  # grouped; one more than a tile of 64, three more than a tile of 16
    Case(131, 131, 6, 1, 4),  # multi-query, more than a tile of 128
    Case(260, 260, 2, 1, 4),  # four tiles of 65
    Case(1, 9, 4, 2, 8, start=True),  # one new token after a cache
    Case(5, 70, 4, 2, 8, start=True),  # several
    Case(67, 67, 4, 2, 8, packed=True),
    Case(131, 131, 2, 2, 4, packed=True),
    Case(67, 67, 4, 2, 8, dropped=True),
    Case(33, 33, 3, 1, 4, packed=True, dropped=True),
    Case(5, 20, 4, 2, 8, start=True, dropped=True),
)


def make_problem(case: Case, seed: int = 0, rows: int = 3) -> Problem:
    """Draw the random tensors of a case; q, k and v require gradients."""
    keys = random.split(random.key(seed), 7)
    shapes = [
        (rows, case.length, case.heads, case.width),
        *[(rows, case.keys, case.key_heads, case.width)] * 2,
    ]
    q, k, v = (
        random.normal(key, shape).requires_grad_() for key, shape in zip(keys[:3], shapes, strict=True)
    )
    extras = {}
    if case.start:
        extras["start"] = random.randint(keys[3], (rows,), 0, case.keys - case.length + 1).long()
    if case.packed:
        extras["segment_ids"] = random.randint(keys[4], (rows, case.length), 0, 4).long().sort(-1).values
    if case.dropped:
        kept = random.bernoulli(keys[5], 0.7, (rows, case.heads, case.length, case.keys))
        extras["dropout_mask"] = kept / 0.7
    return Problem(q, k, v, random.normal(keys[6], shapes[0]), extras)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    start: Tensor | None = None,
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
) -> Tensor:
    """Attention by its definition, in float64: q [B, T, N, H], k and v [B, S, K, H] -> [B, T, N, H]."""
    groups, outputs = q.shape[2] // k.shape[2], []
    for b in range(q.shape[0]):
        offset = 0 if start is None else int(start[b])
        seen = torch.arange(k.shape[1])[None] <= torch.arange(q.shape[1])[:, None] + offset
        if segment_ids is not None:
            seen &= torch.tensor([[int(x) == int(y) for y in segment_ids[b]] for x in segment_ids[b]])
        for n in range(q.shape[2]):
            scores = q[b, :, n].double() @ k[b, :, n // groups].double().T / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            if dropout_mask is not None:
                weights = weights * dropout_mask[b, n]
            outputs.append(weights @ v[b, :, n // groups].double())
    return torch.stack(outputs).unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)
