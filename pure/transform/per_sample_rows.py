"""Gradients of one example, or of several at once under vmap: the parts of `pure.transform.per_sample`.

Shape letters: B batch, C examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.foreign import check_loss
from pure.transform.accumulate import Loss, check_sums
from pure.transform.grad import check_floating, value_and_grad
from pure.transform.modes import has_values
from pure.types import Tree

Where = Callable[[str, Any], bool]
"""(path, leaf) -> whether the leaf is differentiated."""

Check = Callable[[Tree, dict[str, Tensor], Tensor], None]


class RowLoss(NamedTuple):
    """A loss of single examples.

    Fields:
        caller: the public function's name, for errors.
        loss: (params, batch, key) -> (sum [], count [], metrics).
        where: the leaves that are differentiated, or None for all.
    """

    caller: str
    loss: Loss
    where: Where | None


def rows_from(rows: Tree, start: int, size: int) -> Tree:
    """Rows start .. start + size - 1 of every leaf."""
    return tree.map(lambda x: x[start : start + size], rows)


def gradients_of_one(rows: RowLoss, params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tree]:
    """The value and gradient of a batch of one, with their [1] axis."""
    value, grads = row_gradient(rows, params, batch, key)
    return value[None], tree.map(lambda g: g[None], grads)


def gradients_of_several(rows: RowLoss, params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tree]:
    """The values [C] and gradients [C, ...] of several examples.

    Raises:
        RuntimeError: if torch.func.vmap cannot run the loss, which can be computed without it.
    """
    given, spec = tree.flatten(batch)

    def example(row: list[Tensor]) -> list[Tensor]:
        one = tree.unflatten(spec, [x[None] for x in row])
        return tree.leaves(row_gradient(rows, params, one, key))

    try:
        values, *grads = torch.func.vmap(example)(given)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not _runs_alone(rows, params, batch, key):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RuntimeError(
            f"{rows.caller}: torch.func.vmap cannot run this loss ({first[:160]}); chunk=1 and "
            "per_sample_fold compute one example at a time, without vmap"
        ) from error
    return values, tree.unflatten(tree.structure(_partition(rows, params)[0]), grads)


def _runs_alone(rows: RowLoss, params: Tree, batch: Tree, key: Tensor) -> bool:
    """Reports if the gradient of the first example can be computed without vmap."""
    try:
        row_gradient(rows, params, rows_from(batch, 0, 1), key)
    except RuntimeError:
        return False
    return True


def row_gradient(rows: RowLoss, params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tree]:
    """The value and gradient of a batch of one, with respect to the leaves that `where` selects."""
    trained, rest = _partition(rows, params)
    return value_and_grad(partial(_summed, rows.loss, rest))(trained, batch, key)


def first_call_check(rows: RowLoss) -> Check:
    """Makes a function that checks a loss in its first call on values of two rows, and does nothing later."""
    check_loss(rows.caller, rows.loss)
    checked: set[bool] = set()

    def check(params: Tree, batch: dict[str, Tensor], key: Tensor) -> None:
        if not checked and len(batch["batch_position"]) > 1 and has_values((params, batch, key)):
            _check_separate(rows, params, batch, key)
            checked.add(True)

    return check


def _check_separate(rows: RowLoss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> None:
    """Checks that the loss of the first two examples is the sum of their losses, within rounding."""
    check_floating(rows.caller, _partition(rows, params)[0])
    loss = partial(_summed, rows.loss, None)
    with torch.no_grad():
        both = loss(params, rows_from(batch, 0, 2), key).double()
        first, second = (loss(params, rows_from(batch, i, 1), key).double() for i in (0, 1))
    apart, size = (both - first - second).abs(), first.abs() + second.abs()
    if apart > 0.02 * size + 1e-6:  # bfloat16 rounds to 0.004
        raise ValueError(
            f"{rows.caller}: the loss of two examples is {both:.6g}, their losses alone {first:.6g} and "
            f"{second:.6g}: it mixes examples (a mean over the batch?), so an example has no gradient of its "
            "own; return the sum over examples, and the divisor as the count"
        )


def _partition(rows: RowLoss, params: Tree) -> tuple[Tree, Tree]:
    """The leaves that are differentiated and the others; (params, None) for all of them."""
    if rows.where is None:
        return params, None
    trained, rest = tree.partition(rows.where, params)
    if not tree.leaves(trained):
        paths = tree.paths(params)
        raise ValueError(
            f"{rows.caller}: where matches none of the {len(paths)} leaves; it is called with a path and a "
            f"leaf, and the paths are {', '.join(map(repr, paths[:4]))}{' ...' if len(paths) > 4 else ''}"
        )
    return trained, rest


def _summed(loss: Loss, rest: Tree, trained: Tree, batch: Tree, key: Tensor) -> Tensor:
    """The loss, without count and metrics."""
    params = trained if rest is None else tree.combine(trained, rest)
    return check_sums(loss(params, batch, key))[0]
