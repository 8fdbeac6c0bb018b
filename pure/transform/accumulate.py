"""Gradient accumulation that does not change the loss: sums and counts are added, and divided once.

Averaging the averages of micro-batches weighs a short one like a long one, a bug that more than one library
has shipped.

Shape letters: B batch, M micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.transform.grad import value_and_grad
from pure.types import Tree

Metric = tuple[Tensor, Tensor] | Tensor
"""What a loss reports: a mean, as its sum and count, or a sum (tokens of the batch) by itself. Pieces add up
either."""


class Accumulated(NamedTuple):
    """Sums over the whole batch; divide by `count` once.

    Fields:
        sum: [] the loss, summed.
        count: [] what to divide by (tokens, pairs, rows).
        metrics: {name: (sum [], count [])} of what is a mean, {name: sum []} of what is a sum.
        grads: tree like the params, the gradient of `sum`.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    metrics: dict[str, Metric]
    grads: Tree


def accumulate(loss: Callable, parts: int = 1) -> Callable[..., Accumulated]:
    """Returns a function that computes loss and gradient of a batch in `parts` pieces, one after another.

    Memory for activations falls by `parts`; the result is that of the whole batch, up to the order of adding.

        (Σ_m sum_m, Σ_m count_m, Σ_m ∂sum_m/∂params)

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics {name: (sum, count) or sum}).
        parts: M, >= 1, must divide B.

    Returns:
        (params, batch, key, scale=None) -> Accumulated. `scale` [] multiplies the mean loss of a piece while
        it is
        differentiated, for float16, and is divided out again: a sum over thousands of tokens, scaled, would
            overflow.
        The key is the same in every part: what differs from example to example
        must come from the batch itself (`batch["batch_position"]`), so that cutting it changes nothing.

    Raises:
        ValueError: if `parts` < 1 (at once), or B does not divide by `parts` (on the call).
    """
    if parts < 1:
        raise ValueError(f"accumulate: parts must be at least 1, got {parts}")
    return partial(_accumulate, loss, parts)


def _accumulate(
    loss: Callable, parts: int, params: Tree, batch: Tree, key: Tensor, scale: Tensor | None = None
) -> Accumulated:
    """Adds the parts up, in order."""
    pieces = [batch] if parts == 1 else split(batch, parts)
    total = _part(loss, params, pieces[0], key, scale)
    for piece in pieces[1:]:
        total = tree.map(torch.add, total, _part(loss, params, piece, key, scale))
    return total


def split(batch: Tree, parts: int) -> list[Tree]:
    """Cuts every leaf of a batch into `parts` equal pieces along its first axis.

    Raises:
        ValueError: if the first axis does not divide.

    Example:
        >>> [piece["x"].tolist() for piece in split({"x": torch.arange(4)}, 2)]
        [[0, 1], [2, 3]]
    """
    rows = row_count("accumulate", batch)
    if rows % parts:
        raise ValueError(
            f"accumulate: {rows} rows do not divide into {parts} parts; choose a divisor of {rows}"
        )
    values, spec = tree.flatten(batch)
    pieces = zip(*(x.split(rows // parts) for x in values), strict=True)
    return [tree.unflatten(spec, list(piece)) for piece in pieces]


def row_count(who: str, batch: Tree) -> int:
    """Says how many rows a batch has, B: the first axis of each of its leaves.

    Args:
        who: what an error calls the caller.
        batch: tree of tensors [B, ...].

    Returns:
        B, at least 1.

    Raises:
        ValueError: if the batch has no leaf or no rows, or leaves differ in their rows.

    Example:
        >>> row_count("stage", {"tokens": torch.zeros(4, 9), "labels": torch.zeros(4, 9)})
        4
    """
    sizes = [x.shape[0] if x.ndim else 0 for x in tree.leaves(batch)]
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"{who}: the batch has no rows; its leaves must be [B, ...] with B at least 1, got "
            f"{_shapes(batch)}"
        )
    if min(sizes) != max(sizes):
        raise ValueError(
            f"{who}: the leaves of a batch must have the same number of rows, got {_shapes(batch)}"
        )
    return sizes[0]


def _shapes(batch: Tree) -> str:
    """ "labels [2, 9], tokens [3, 9]"."""
    parts = zip(tree.paths(batch), tree.leaves(batch), strict=True)
    return ", ".join(f"{path} {list(x.shape)}" for path, x in parts) or "no leaf"


def _part(loss: Callable, params: Tree, batch: Tree, key: Tensor, scale: Tensor | None) -> Accumulated:
    """One piece; the scale is undone on the gradients."""

    def summed(params: Tree) -> tuple[Tensor, Any]:
        total, count, metrics = loss(params, batch, key)
        if scale is None:
            return total, (total, count, metrics)
        return total * (scale / count.clamp(min=1)), (total, count, metrics)

    (_, (total, count, metrics)), grads = value_and_grad(summed, has_aux=True)(params)
    if scale is not None:
        grads = tree.map(lambda g: g * (count.clamp(min=1) / scale), grads)
    return Accumulated(total, count, metrics, grads)
