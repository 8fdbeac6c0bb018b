"""Gradient accumulation that leaves the loss unchanged: sums and counts are added, and divided once.

An average over the averages of micro-batches would weigh a short one like a long one, a known bug of other
libraries.

Shape letters: B batch, M micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pure import tree
from pure.foreign import check_loss
from pure.parallel.agreement import compute_in_group
from pure.parallel.collect import common_count, own, total
from pure.parallel.group import data_group
from pure.transform.arguments import require
from pure.transform.grad import value_and_grad
from pure.types import Tree

Metric = tuple[Tensor, Tensor] | Tensor
"""A metric of a loss: a mean, as (sum, count), or a sum, such as the tokens of the batch. Both add up."""


@runtime_checkable
class Loss(Protocol):
    """Loss of a batch as sums: (params, batch, key) -> (sum [], count [], metrics).

    The batch has "batch_position" [B], each example's index in the batch, for randomness that must not depend
    on how the batch is split into micro-batches. (Not to be confused with "row" [B], the index in the data
    set, or "positions" [B, T], those of the tokens.) It may have "weights" [B] float: the parts of a row in
    sum, count and metrics are multiplied by its weight, so that 0 leaves a row out, and 2 counts it twice.
    The losses of this library do so, and ∂sum/∂weights [B] is then the loss of each row, ∂count/∂weights its
    count. Metrics are {name: (sum [], count [])} for a mean and {name: sum []} for a sum, such as the tokens
    of the batch. Without a key (None), dropout is off, for validation.

    A loss of one's own that does not read "weights" ignores them without a word, where a row counts once.
    Weights of tokens are leaves [B, T] under a name of its own choice, which only that loss reads.
    """

    def __call__(
        self, params: Tree, batch: Tree, key: Tensor | None, /
    ) -> tuple[Tensor, Tensor, dict[str, Metric]]: ...


class Accumulated(NamedTuple):
    """Sums over the whole batch; divide by `count` once.

    Fields:
        sum: [] the loss, summed.
        count: [] the divisor (tokens, pairs, rows).
        metrics: {name: (sum [], count [])} for means, {name: sum []} for sums.
        grads: tree like the params, the gradient of `sum`.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    metrics: dict[str, Metric]
    grads: Tree


def accumulate(loss: Loss, parts: int = 1) -> Callable[..., Accumulated]:
    """Returns a function that computes loss and gradient of a batch in `parts` micro-batches.

    The memory for activations falls by the factor `parts`; the result is that of the whole batch, up to the
    order of summation.

        (Σ_m sum_m, Σ_m count_m, Σ_m ∂sum_m/∂params)

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics {name: (sum, count) or sum}).
        parts: M, >= 1, must divide B.

    Returns:
        (params, batch, key, scale=None) -> Accumulated. `scale` [] is the loss scale of float16: it
        multiplies the mean loss of a micro-batch (the sum would overflow), and the gradients are divided by
        it. The key is the same for every micro-batch: randomness per example must come from the batch itself
        (`batch["batch_position"]`), so that splitting changes nothing.

    Raises:
        ValueError: if `parts` < 1 (at once), or B is not divisible by `parts` (on the call).
        TypeError: if the loss is none, or returns something else (`check_sums`).
    """
    check_loss("accumulate", loss)
    if parts < 1:
        raise ValueError(f"accumulate: parts must be at least 1, got {parts}")
    return require("accumulate(loss)", "params, batch, key", partial(_accumulate, loss, parts), further=1)


def sum_parts(compute: Callable[[Tree], Accumulated], batch: Tree, parts: int = 1) -> Accumulated:
    """Add the sums of all micro-batches, and of all processes that share the batch (`pure.parallel`).

    Args:
        compute: rows of a batch -> Accumulated.
        batch: tree of tensors [B, ...]; the whole batch, the same on all processes, of which each computes
            its rows of each micro-batch.
        parts: M, >= 1, must divide B.

    Returns:
        Accumulated, the same bits on all processes; gradients that a sharded stage sums itself are this
        process's own (`Group.scatter`). Where different batches are not refused by an error, the
        sum is NaN, so that a stage skips the step.

    Raises:
        Exception: as `pure.parallel.agreement.compute_in_group`, which also refuses metrics of other names,
            dtypes or shapes on another process.

    Example:
        >>> def count_rows(batch):
        ...     return Accumulated(batch["x"].sum(), torch.tensor(len(batch["x"])), {}, ())
        >>> sum_parts(count_rows, {"x": torch.tensor([1.0, 2.0, 3.0, 4.0])}, 2)[:2]
        (tensor(10.), tensor(4))
    """
    group = data_group()
    if group is None:
        return _sum_micro_batches(compute, parts, batch)
    if group.scatter:
        compared = _without_gradients if group.layers else None  # which are rows, of sizes of their own
        compute_own = partial(_sum_micro_batches, compute, parts)
        sums = _nan_unless(*compute_in_group(compute_own, batch, compared=compared))
        return total(sums._replace(grads=()))._replace(grads=sums.grads)
    # No name keeps the gradients of this process: `total` frees each leaf once it is summed.
    return total(_nan_unless(*compute_in_group(partial(_sum_micro_batches, compute, parts), batch)))


def _without_gradients(sums: Accumulated) -> Accumulated:
    """The same without gradients."""
    return sums._replace(grads=())


def _nan_unless(sums: Accumulated, same: Tensor) -> Accumulated:
    """The same with a sum of NaN where `same` [] is False."""
    return sums._replace(sum=torch.where(same, sums.sum, torch.nan))


def _sum_micro_batches(compute: Callable[[Tree], Accumulated], parts: int, batch: Tree) -> Accumulated:
    """Sums loss, count, metrics and gradients over the micro-batches of a batch, in order.

    One micro-batch is in memory at a time. Sums are added, not means, so that a micro-batch with few tokens
    weighs less.

        (Σ_m sum_m, Σ_m count_m, Σ_m metrics_m, Σ_m grads_m)

    Args:
        compute: rows of a batch -> Accumulated.
        parts: M, >= 1, must divide B.
        batch: tree of tensors [B, ...].

    Returns:
        Accumulated, of this process's rows.

    Steps:
        1. `split` the batch into its micro-batches; a single one is the batch itself.
        2. Compute the first: of each micro-batch `own(micro_batch)` gives this process's rows, without
            others all of them.
        3. Compute the others in turn, and add each, leaf by leaf (`tree.map`), to the sums so far.

    Edge cases: with one part nothing is split or added.

    Raises:
        ValueError: as `split`.

    Example:
        >>> def add_rows(batch):
        ...     return Accumulated(batch["x"].sum(), torch.tensor(len(batch["x"])), {}, ())
        >>> _sum_micro_batches(add_rows, 2, {"x": torch.tensor([1.0, 2.0, 3.0, 4.0])})[:2]
        (tensor(10.), tensor(4))

    Source: the module's docstring says where it differs from an average of averages.
    """
    # 1. Micro-batches [B/M, ...].
    first, *rest = [batch] if parts == 1 else split(batch, parts)
    # 2. First sums.
    sums = compute(own(first))
    # 3. Add the others.
    for micro_batch in rest:
        sums = tree.map(torch.add, sums, compute(own(micro_batch)))
    return sums


def _accumulate(
    loss: Loss, parts: int, params: Tree, batch: Tree, key: Tensor, scale: Tensor | None = None
) -> Accumulated:
    """Sums over the micro-batches."""
    return sum_parts(lambda rows: _micro_batch(loss, params, rows, key, scale), batch, parts)


def split(batch: Tree, parts: int) -> list[Tree]:
    """Splits every leaf of a batch into `parts` equal micro-batches along its first axis.

    Micro-batch m has the rows m B/M .. (m + 1) B/M - 1, in order, of every leaf.

    Args:
        batch: tree of tensors [B, ...].
        parts: M, >= 1, must divide B.

    Returns:
        M trees like the batch, of tensors [B/M, ...].

    Steps:
        1. Count the rows B by `row_count`, which takes the caller's name, "accumulate", and check that M
            divides B.
        2. Split each leaf: `tree.flatten` gives (leaves, structure).
        3. Build the m-th tree of the m-th pieces of all leaves (`tree.unflatten(structure, leaves)`).

    Edge cases: one part is the whole batch; leaves may have other dtypes and numbers of axes.

    Raises:
        ValueError: if the number of rows is not divisible by `parts` ("accumulate: 5 rows do not divide into
            2 parts"), or as `row_count`.

    Example:
        >>> [part["x"].tolist() for part in split({"x": torch.arange(4)}, 2)]
        [[0, 1], [2, 3]]
    """
    # 1. Rows.
    rows = row_count("accumulate", batch)
    if rows % parts:
        raise ValueError(
            f"accumulate: {rows} rows do not divide into {parts} parts; choose a divisor of {rows}"
        )
    # 2. Pieces [B/M, ...] of each leaf.
    values, spec = tree.flatten(batch)
    micro_batches = zip(*(x.split(rows // parts) for x in values), strict=True)
    # 3. Trees.
    return [tree.unflatten(spec, list(leaves)) for leaves in micro_batches]


def row_count(caller: str, batch: Tree) -> int:
    """Counts the rows of a batch, B: the first axis of each of its leaves.

    Args:
        caller: the caller's name in an error.
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
            f"{caller}: the batch has no rows; its leaves must be [B, ...] with B at least 1, got "
            f"{_shapes(batch)}"
        )
    if min(sizes) != max(sizes):
        raise ValueError(
            f"{caller}: the leaves of a batch must have the same number of rows, got {_shapes(batch)}"
        )
    return sizes[0]


def number_rows(caller: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds "batch_position" [B], each row's index in the batch, where it is missing; see `Loss`.

    Args:
        caller: the caller's name in an error.
        batch: dict of tensors [B, ...].

    Raises:
        ValueError: as `row_count`.

    Example:
        >>> number_rows("stage", {"x": torch.zeros(3)})["batch_position"]
        tensor([0, 1, 2])
    """
    rows = row_count(caller, batch)
    return {"batch_position": torch.arange(rows, device=tree.leaves(batch)[0].device), **batch}


def check_sums(result: Any) -> tuple[Tensor, Tensor, dict[str, Metric]]:
    """Checks what a loss returned, and returns it.

    Args:
        result: of a Loss.

    Returns:
        (sum [], count [], metrics).

    Raises:
        TypeError: if it is no triple whose first part is a number [], or if the count or a metric is no
            tensor.

    Example:
        >>> check_sums((torch.tensor(6.0), torch.tensor(2.0), {}))
        (tensor(6.), tensor(2.), {})
    """
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise _not_sums(result)
    total, count, metrics = result
    if not isinstance(total, Tensor) or total.ndim:
        raise _not_sums(total)
    if not isinstance(count, Tensor):
        raise TypeError(
            f"loss: expected the count to be a tensor [], got {type(count).__name__}; write "
            "torch.tensor(float(count))"
        )
    for name, metric in metrics.items():
        parts = metric if isinstance(metric, tuple) and len(metric) == 2 else (metric,)
        if not all(isinstance(x, Tensor) for x in parts):
            raise TypeError(
                f"loss: expected the metric {name!r} to be a sum [], or (sum [], count []) for a mean, of "
                f"tensors, got {metric!r}"
            )
    return total, count, metrics


def _not_sums(result: Any) -> TypeError:
    """The error for a loss that does not return three things, or whose first is no number."""
    got = f"a tensor {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
    return TypeError(
        f"loss: expected (sum [], count [], metrics), got {got}; return losses.sum(), the number that it is "
        "divided by as a tensor, and {} for no metrics"
    )


def divisor(count: Tensor) -> Tensor:
    """Return the count that a sum is divided by: 1 where it is 0, as in a batch without labels.

    Example:
        >>> divisor(torch.tensor(0.0)), divisor(torch.tensor(0.5))
        (tensor(1.), tensor(0.5000))
    """
    return torch.where(count > 0, count, 1.0)


def _shapes(batch: Tree) -> str:
    """Lists the leaves: "labels [2, 9], tokens [3, 9]"."""
    parts = zip(tree.paths(batch), tree.leaves(batch), strict=True)
    return ", ".join(f"{path} {list(x.shape)}" for path, x in parts) or "no leaf"


def _micro_batch(loss: Callable, params: Tree, batch: Tree, key: Tensor, scale: Tensor | None) -> Accumulated:
    """Loss and gradient of one micro-batch; the gradients are divided by the scale."""

    def scaled_loss(params: Tree) -> tuple[Tensor, Any]:
        total, count, metrics = check_sums(loss(params, batch, key))
        if scale is None:
            return total, (total, count, count, metrics)
        shared = common_count(count)
        return total * (scale / divisor(shared)), (total, count, shared, metrics)

    (_, (total, count, shared, metrics)), grads = value_and_grad(scaled_loss, has_aux=True)(params)
    if scale is not None:
        grads = tree.map(lambda g: g * (divisor(shared) / scale), grads)
    return Accumulated(total, count, metrics, grads)
