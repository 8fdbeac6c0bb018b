"""Per-sample gradients: the gradient of each example, of which the batch's gradient is the sum.

Differential privacy clips them; gradient noise scale, influence functions and data selection compare them.

Shape letters: B batch, C examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.transform.accumulate import Loss, row_count
from pure.transform.grad import grad
from pure.transform.modes import has_values
from pure.types import Tree

Check = Callable[[Loss, Tree, dict[str, Tensor], Tensor], None]


def per_sample_grad(loss: Loss, *, chunk: int | None = None) -> Callable[..., Tree]:
    """Returns a function that computes the gradient of each example.

        G[b] = ∂ sum(loss of example b) / ∂params,     Σ_b G[b] = the gradient of the batch's sum

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as in
            `pure.transform.accumulate.accumulate`; it gets each example as a batch of one.
        chunk: C, examples at a time, >= 1; None computes all at once. Activations are in memory for C
            examples. With 1, torch.func is not used, so that `remat` still saves memory and
            `jit(..., regions=True)` still compiles by layer.

    Returns:
        (params, batch, key) -> grads: a tree like the params, each leaf with a leading [B] axis: B times the
        memory of the params. The batch is a dict of tensors [B, ...]; "batch_position" (each example's
        index) is added where it is missing, so that dropout masks are those of the whole batch.

    Edge cases: a last chunk may be shorter; `None` in params or batch passes unchanged.

    Raises:
        ValueError: if chunk < 1 (at once); if the batch has no rows, or its leaves differ in their number
            of rows; if the loss of two examples is not the sum of their losses (checked in the first call on
            values, with the first two examples).

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
        raise ValueError(f"per_sample_grad: chunk must be at least 1 example, got {chunk}")
    return partial(_per_sample_grad, loss, chunk, _first_call_check())


def per_sample_fold(loss: Loss, function: Callable[[Any, Tree], Any]) -> Callable[..., Any]:
    """Returns a function that folds `function` over the examples' gradients, one in memory at a time.

    All gradients take B times the memory of the params. Most results are small (norms, the sum after
    clipping, products with a direction) and need one gradient at a time.

        carry ← function(carry, G[b]),  b = 0 ... B - 1

    Args:
        loss: as in `per_sample_grad`.
        function: (carry, grads like the params) -> carry; carry is anything.

    Returns:
        (params, batch, key, start) -> carry, with carry = start before the first example.

    Raises:
        ValueError: on the call, as `per_sample_grad`.

    Example:
        Gradients 1, 2 and 9, each clipped to 3 at most, have the sum 6.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> clipped = per_sample_fold(loss, lambda total, g: total + g.clamp(max=3.0))
        >>> batch = {"x": torch.tensor([1.0, 2.0, 9.0])}
        >>> clipped(torch.tensor(1.0), batch, torch.tensor([0, 0]), torch.tensor(0.0))
        tensor(6.)

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, a fold that clips and
    adds.
    """
    return partial(_per_sample_fold, loss, function, _first_call_check())


def _per_sample_fold(
    loss: Loss,
    function: Callable,
    check: Check,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
    start: Any,
) -> Any:
    """Folds over the examples in order."""
    batch, carry = _with_positions(batch), start
    check(loss, params, batch, key)
    for i in range(len(batch["batch_position"])):
        carry = function(carry, grad(partial(_summed, loss))(params, _slice(batch, i, 1), key))
    return carry


def _per_sample_grad(
    loss: Loss, chunk: int | None, check: Check, params: Tree, batch: dict[str, Tensor], key: Tensor
) -> Tree:
    """Computes the gradients chunk by chunk.

    Steps:
        1. Number the rows; check the loss, once.
        2. Split the batch into chunks; C = 1 is a plain gradient, C > 1 is one under vmap.
        3. Copy each chunk's gradients into the result, which is allocated once.
    """
    # 1. Rows.
    batch = _with_positions(batch)
    rows = len(batch["batch_position"])
    check(loss, params, batch, key)
    # 2. Chunks.
    size = chunk or rows
    compute = _chunk_of_one if size == 1 else _chunk_of_several
    chunks = (partial(compute, loss, params, _slice(batch, i, size), key) for i in range(0, rows, size))
    if size >= rows:
        return next(chunks)()
    # 3. Result.
    out: Tree = None
    for i, gradient in enumerate(chunks):
        part = gradient()
        if out is None:
            out = tree.map(lambda g: g.new_empty((rows, *g.shape[1:])), part)
        tree.map(Tensor.copy_, _slice(out, i * size, size), part)
        del part
    return out


def _with_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds "batch_position", the index of each example, where it is missing."""
    rows = row_count("per_sample_grad", batch)
    return {"batch_position": torch.arange(rows, device=tree.leaves(batch)[0].device), **batch}


def _slice(rows: Tree, start: int, size: int) -> Tree:
    """Rows start .. start + size - 1 of every leaf."""
    return tree.map(lambda x: x[start : start + size], rows)


def _chunk_of_one(loss: Loss, params: Tree, batch: Tree, key: Tensor) -> Tree:
    """The gradient of a batch of one, with its [1] axis."""
    return tree.map(lambda g: g[None], grad(partial(_summed, loss))(params, batch, key))


def _chunk_of_several(loss: Loss, params: Tree, batch: Tree, key: Tensor) -> Tree:
    """The gradients of several examples, [C, ...]."""

    rows, rows_spec = tree.flatten(batch)

    def example(row: list[Tensor]) -> list[Tensor]:
        one = tree.unflatten(rows_spec, [x[None] for x in row])
        return tree.leaves(grad(partial(_summed, loss))(params, one, key))

    return tree.unflatten(tree.structure(params), torch.func.vmap(example)(rows))


def _first_call_check() -> Check:
    """Makes a function that checks a loss in its first call on values, and does nothing later."""
    checked: set[bool] = set()

    def check(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> None:
        if not checked and has_values((params, batch, key)):
            _check_separate(loss, params, batch, key)
            checked.add(True)

    return check


def _check_separate(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> None:
    """Checks that the loss of the first two examples is the sum of their losses, within rounding."""
    if len(batch["batch_position"]) < 2:
        return
    with torch.no_grad():
        both = _summed(loss, params, _slice(batch, 0, 2), key).double()
        first, second = (_summed(loss, params, _slice(batch, i, 1), key).double() for i in (0, 1))
    apart, size = (both - first - second).abs(), first.abs() + second.abs()
    if apart > 0.02 * size + 1e-6:  # bfloat16 rounds to 0.004
        raise ValueError(
            f"per_sample_grad: the loss of two examples is {both:.6g}, their losses alone {first:.6g} and "
            f"{second:.6g}: it mixes examples (a mean over the batch?), so an example has no gradient of its "
            "own; return the sum over examples, and the divisor as the count"
        )


def _summed(loss: Loss, params: Tree, batch: Tree, key: Tensor) -> Tensor:
    """The loss, without count and metrics."""
    return loss(params, batch, key)[0]
