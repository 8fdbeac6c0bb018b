"""Cosines between gradients: do the parts of a batch agree, and does a step go where the last one went?

Shape letters: B rows, M micro-batches.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pure import tree
from pure.transform.accumulate import Accumulated, Loss, accumulate, split
from pure.transform.gradient import Gradient
from pure.types import Tree

PREVIOUS, PARTS = "cosine/previous_step", "cosine/micro_batches"


def cosines(parts: int = 1) -> Gradient:
    """Return the Gradient of a stage that compares the directions of gradients while it trains.

        cos(a, b) = <a, b> / (|a| |b|)

    Args:
        parts: M >= 1, micro-batches of a step; must divide B.

    Returns:
        A Gradient with the metric "cosine/previous_step", of this step's gradient and the last one's (NaN in
        the first step), and with parts >= 2 "cosine/micro_batches", the mean over all pairs of micro-batches.
        It remembers the last gradient: as much memory as the params. The gradient is that of
        `accumulation=parts`, bit for bit.

    Edge cases: a gradient of zeros has no direction: NaN.

    Raises:
        ValueError: if parts < 1.

    Example:
        >>> cosines(parts=2).metrics
        ('cosine/previous_step', 'cosine/micro_batches')
    """
    if parts < 1:
        raise ValueError(f"cosines: parts must be at least 1, got {parts}")
    metrics = (PREVIOUS,) if parts == 1 else (PREVIOUS, PARTS)
    return Gradient(tree.zeros_like, partial(_compute, parts), metrics)


def _compute(
    parts: int,
    loss: Loss,
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    memory: Tree,
    scale: Tensor | None,
) -> tuple[Accumulated, Tree]:
    """The gradient of a batch, its cosines, and itself as the next memory.

    The mean over pairs follows from the sum u of the M unit vectors: |u|² = M + Σ of all pairs' cosines.
    """
    compute = accumulate(loss)
    batches = split(batch, parts)
    total = compute(params, batches[0], key, scale)
    units = _scaled(total.grads) if parts > 1 else None
    for micro_batch in batches[1:]:
        part = compute(params, micro_batch, key, scale)
        units = tree.map(torch.add, units, _scaled(part.grads))
        total = tree.map(torch.add, total, part)
    metrics = {PREVIOUS: tree.inner(_scaled(total.grads), _scaled(memory))}
    if units is not None:
        metrics[PARTS] = (tree.inner(units, units) - parts) / (parts * (parts - 1))
    return total._replace(metrics={**total.metrics, **metrics}), total.grads


def _scaled(grads: Tree) -> Tree:
    """A tree divided by its norm; NaN for a tree of zeros."""
    norm = tree.inner(grads, grads).sqrt()
    return tree.map(lambda g: g / norm.to(g.dtype), grads)
