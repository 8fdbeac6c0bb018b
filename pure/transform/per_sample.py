"""Per-sample gradients: the gradient of each example by itself, which a batch's gradient only shows summed.

Differential privacy clips them one by one; gradient noise scale, influence functions and data selection
compare them.

Shape letters: B batch, C examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.transform.accumulate import row_count
from pure.transform.grad import grad
from pure.types import Tree


def per_sample_grad(loss: Callable, *, chunk: int | None = None) -> Callable[..., Tree]:
    """Returns a function that computes each example's own gradient.

        G[b] = ∂ sum(loss of example b) / ∂params,     Σ_b G[b] = the gradient of the batch's sum

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as `pure.transform.accumulate.accumulate`
            takes it; it sees each example as a batch of one.
        chunk: C, examples at a time, >= 1; None takes all at once. Activations are held for C examples: 1
            needs least memory, and then torch.func is not needed: `remat` saves, and `jit(..., regions=True)`
            compiles layers.

    Returns:
        (params, batch, key) -> grads: a tree like the params, each leaf with a leading [B] axis, B x params
        bytes. The batch is a dict of tensors [B, ...]; "batch_position" (each example's
        place in it) is added where it is missing, so that dropout masks are those of the whole batch.

    Edge cases: a last chunk may be shorter.

    Raises:
        ValueError: if chunk < 1 (at once); if the batch has no rows, or leaves that differ in them (on the
            call).

    Example:
        The loss is w x; its gradient for each example is x.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> per_sample_grad(loss)(torch.tensor(3.0), {"x": torch.tensor([1.0, 2.0])}, torch.tensor([0, 0]))
        tensor([1., 2.])

    Source: the vmap of a gradient, as in Subramani et al., "Enabling Fast Differentially Private SGD via
    Just-in-Time Compilation and Vectorization", 2021.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"per_sample_grad: chunk counts examples and must be at least 1, got {chunk}")
    return partial(_per_sample_grad, loss, chunk)


def per_sample_fold(loss: Callable, function: Callable[[Any, Tree], Any]) -> Callable[..., Any]:
    """Returns a function that shows one example's gradient after the other to `function`, and holds only one.

    All gradients together take B times the memory of the params. What one wants of them is mostly small
    (their norms, their sum after clipping, their products with a direction), and needs no two of them at
    once.

        carry ← function(carry, G[b]),  b = 0 ... B - 1

    Args:
        loss: as in `per_sample_grad`.
        function: (carry, grads like the params) -> carry; carry is anything.

    Returns:
        (params, batch, key, start) -> carry, with carry = start before the first example.

    Raises:
        ValueError: if the batch has no rows, or leaves that differ in them (on the call).

    Example:
        Gradients 1, 2 and 9, each clipped to 3 at most, add up to 6.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> clipped = per_sample_fold(loss, lambda total, g: total + g.clamp(max=3.0))
        >>> batch = {"x": torch.tensor([1.0, 2.0, 9.0])}
        >>> clipped(torch.tensor(1.0), batch, torch.tensor([0, 0]), torch.tensor(0.0))
        tensor(6.)

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, is the fold that clips
    and adds.
    """
    return partial(_per_sample_fold, loss, function)


def _per_sample_fold(
    loss: Callable, function: Callable, params: Tree, batch: dict[str, Tensor], key: Tensor, start: Any
) -> Any:
    """Computes what `per_sample_fold` promises."""
    batch, carry = _numbered(batch), start
    for i in range(len(batch["batch_position"])):
        carry = function(carry, grad(partial(_summed, loss))(params, _cut(batch, i, 1), key))
    return carry


def _per_sample_grad(
    loss: Callable, chunk: int | None, params: Tree, batch: dict[str, Tensor], key: Tensor
) -> Tree:
    """Computes what `per_sample_grad` promises.

    Steps:
        1. Number the rows.
        2. Cut the batch into chunks; C = 1 is a plain gradient, C > 1 is one under vmap.
        3. Write each chunk's gradients to their place in the result, which is made once.
    """
    # 1. Rows.
    batch = _numbered(batch)
    rows = len(batch["batch_position"])
    # 2. Chunks.
    size = chunk or rows
    together = _one if size == 1 else _several
    chunks = (partial(together, loss, params, _cut(batch, i, size), key) for i in range(0, rows, size))
    if size >= rows:
        return next(chunks)()
    # 3. Result.
    out: Tree = None
    for i, gradient in enumerate(chunks):
        part = gradient()
        out = tree.map(lambda g: g.new_empty((rows, *g.shape[1:])), part) if out is None else out
        tree.map(Tensor.copy_, _cut(out, i * size, size), part)
        del part
    return out


def _numbered(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with each example's place in it."""
    rows = row_count("per_sample_grad", batch)
    return {"batch_position": torch.arange(rows, device=tree.leaves(batch)[0].device), **batch}


def _cut(rows: Tree, start: int, size: int) -> Tree:
    """Rows start .. start + size - 1 of every leaf."""
    return tree.map(lambda x: x[start : start + size], rows)


def _one(loss: Callable, params: Tree, batch: Tree, key: Tensor) -> Tree:
    """The gradient of a batch of one, with its [1] axis."""
    return tree.map(lambda g: g[None], grad(partial(_summed, loss))(params, batch, key))


def _several(loss: Callable, params: Tree, batch: Tree, key: Tensor) -> Tree:
    """The gradients of several examples, [C, ...]."""

    def example(params: Tree, row: Tree, key: Tensor) -> Tree:
        return grad(partial(_summed, loss))(params, tree.map(lambda x: x[None], row), key)

    return torch.func.vmap(example, (None, 0, None))(params, batch, key)


def _summed(loss: Callable, params: Tree, batch: Tree, key: Tensor) -> Tensor:
    """The loss, without count and metrics."""
    return loss(params, batch, key)[0]
