"""Measuring each example's gradient: its norm, loss and count, and any weighted sum of the gradients.

Where it is possible, from one recorded pass (`pure.transform.book_keeping`); else from the gradients
themselves.

Shape letters: B examples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.foreign import check_loss
from pure.transform.accumulate import Loss, Metric, number_rows
from pure.transform.book_keeping import Recorded, record
from pure.transform.example_rows import Rows, UnknownUseError, rows_of
from pure.transform.ghost_norm import Term, input_gram, squared_norms, term_of, weighted_sum
from pure.transform.grad import grad, value_and_grad
from pure.transform.modes import has_values, may_be_differentiated
from pure.transform.per_sample import per_sample_grad
from pure.transform.recorder import Receive, Use
from pure.types import Tree

COMPARED = 4
"""Examples whose norms are compared with those of their own gradients, in the first call."""

MIXES = (
    "the loss mixes examples, or reorders its rows; return the sum over examples in their order, and give "
    "numbers of the whole batch as leaves of the batch"
)


class Examined(NamedTuple):
    """A batch whose examples' gradients have been measured.

    Fields:
        sum, count, metrics: those of the loss of the whole batch.
        norms: [B] float, norm of the gradient of each example's loss (its sum).
        sums, counts: [B] float, loss and count of each example alone; None unless they were asked for.
        weighted: factors [B] -> Σ_b factors[b] G[b], a tree like the params.
        precision: dtype of the products from which the norms are computed.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    metrics: dict[str, Metric]
    norms: Tensor
    sums: Tensor | None
    counts: Tensor | None
    weighted: Callable[[Tensor], Tree]
    precision: torch.dtype


class Checks(NamedTuple):
    """Memo of the losses that have been checked, which are checked once; it changes no result.

    Fields:
        passed: (loss, order of rows) whose norms have been compared.
        unknown: losses that use a param in a way that is not recorded.
        digest: stands for it in a run's fingerprint.
    """

    passed: set
    unknown: set
    digest: str = "a memo of checks"


def examine(
    loss: Loss,
    *,
    keep: bool = True,
    counted: bool = False,
    checks: Checks | None = None,
    name: Loss | None = None,
) -> Callable[..., Examined]:
    """Returns a function that measures each example's gradient; any weighted sum of them follows.

    Args:
        loss: as in `per_sample_norms`.
        keep: as in `clipped_sum`.
        counted: measure loss and count of each example too, for which the loss must honour
            `batch["weights"]`, see `pure.transform.accumulate.Loss`.
        checks: of earlier calls; None: none.
        name: the loss as it is known to `checks`, if it is another one in each call; None: `loss`.

    Returns:
        (params, batch, key) -> Examined.

    Raises:
        ValueError: on the call, as `per_sample_norms`; with `counted`, for a loss that ignores weights.
    """
    check_loss("per_sample_norms", loss)
    return partial(_examine, loss, keep, counted, checks or Checks(set(), set()), name or loss)


def _examine(
    loss: Loss,
    keep: bool,
    counted: bool,
    checks: Checks,
    name: Loss,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
) -> Examined:
    """Measures by recording, or by the gradients themselves where that is not possible.

    Steps:
        1. Number the examples, and give them weights if they are to be counted.
        2. Under a compiler, a transform or an outer gradient: all gradients at once.
        3. Record. If a param is used in an unknown way: the gradients one after the other.
        4. Compare a few norms with those of the examples' own gradients, until these were not all equal once.
           If they differ: the gradients one after the other, whose sum must be that of the batch.
    """
    # 1. Rows.
    batch = number_rows("per_sample_norms", batch)
    rows, device = len(batch["batch_position"]), batch["batch_position"].device
    if counted:
        batch["weights"] = batch.get("weights", torch.ones(rows, device=device)).to(tree.shared_dtype(params))
    # 2. Transforms.
    if not has_values((params, batch, key)) or may_be_differentiated((params, batch)):
        return _by_gradients(loss, counted, params, batch, key)
    # 3. Recording.
    examined = None
    if name not in checks.unknown:
        try:
            examined = _recorded(loss, keep, params, batch, key)
        except UnknownUseError:
            checks.unknown.add(name)
    if examined is None:
        examined = _one_by_one(loss, counted, params, batch, key)
    # 4. Comparison.
    if counted:
        _check_counts(examined)
    if name not in checks.unknown and (name, rows_of(batch)) not in checks.passed:
        alone = _own_norms(loss, params, batch, key)
        if (mixed := _find_difference(alone, examined)) is not None:
            checks.unknown.add(name)
            return _in_other_order(loss, counted, params, batch, key, mixed)
        if rows == 1 or len({x for x in alone.values() if isfinite(x)}) > 1:  # equal norms show no order
            checks.passed.add((name, rows_of(batch)))
    return examined


def _recorded(loss: Loss, keep: bool, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Measures the gradient of each output when it is computed; keeps it, or computes it again for a sum."""
    kept: dict[int, Tensor] = {}
    rows, (leaves, spec) = rows_of(batch), tree.flatten(params)
    add_squares, sum_squares = _square_functions(rows)

    def receive(number: int, uses: list[Use], d: Tensor) -> None:
        add_squares(number, uses, d)
        if keep:
            kept[number] = d

    recorded = record(loss, params, batch, key, receive)
    vectors, uses = recorded.vectors, recorded.uses if keep else []  # without `keep`, inputs are freed

    def weighted(factors: Tensor) -> Tree:
        sums: dict[int, Tensor] = {}

        def add(number: int, uses: list[Use], d: Tensor) -> None:
            leaf = uses[number].leaf
            part = weighted_sum(rows, uses[number], d, factors, leaves[leaf])
            sums[leaf] = sums[leaf] + part if leaf in sums else part

        if keep:
            for number, d in kept.items():
                add(number, uses, d)
        else:
            record(loss, params, batch, key, add)
        for leaf, g in vectors.items():
            sums[leaf] = torch.tensordot(factors.to(g.dtype), g, 1)
        return tree.unflatten(
            spec, [sums[i] if i in sums else torch.zeros_like(x) for i, x in enumerate(leaves)]
        )

    squares = sum_squares() + _vector_squares(recorded, rows, params)
    return _examined(recorded, squares, weighted)


def _square_functions(rows: Rows) -> tuple[Receive, Callable[[], Tensor | float]]:
    """Makes a function that receives gradients of outputs, and one that returns the squared norms [B] so far.

    A matrix with several uses (a tied embedding) is measured when all have been received. The gram of an
    input that several matrices share is computed once.
    """
    waiting: dict[int, list[Term]] = {}
    squares: list[Tensor] = []
    grams: dict[int, Tensor | None] = {}  # of the last shared input

    def add_squares(number: int, uses: list[Use], d: Tensor) -> None:
        use = uses[number]
        shared = sum(other.inputs is use.inputs for other in uses) > 1 and not use.is_lookup
        if shared and id(use.inputs) not in grams:
            grams.clear()
            grams[id(use.inputs)] = input_gram(rows, use)
        waiting.setdefault(use.leaf, []).append(term_of(rows, use, d, grams.get(id(use.inputs))))
        if len(waiting[use.leaf]) == sum(other.leaf == use.leaf for other in uses):
            squares.append(squared_norms(waiting.pop(use.leaf)))

    def sum_squares() -> Tensor | float:
        return sum([*squares, *(squared_norms(terms) for terms in waiting.values())])

    return add_squares, sum_squares


def _examined(recorded: Recorded, squares: Tensor, weighted: Callable[[Tensor], Tree]) -> Examined:
    """The result of a recording."""
    dtypes = [use.inputs.dtype for use in recorded.uses if not use.is_lookup] or [squares.dtype]
    precision = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return Examined(*recorded[:3], squares.sqrt(), recorded.sums, recorded.counts, weighted, precision)


def _vector_squares(recorded: Recorded, rows: Rows, params: Tree) -> Tensor:
    """The squared norms of the gradients of all vectors together: [B]."""
    squares = torch.zeros(rows.examples, dtype=tree.shared_dtype(params), device=recorded.sum.device)
    for g in recorded.vectors.values():
        squares = squares + g.to(squares.dtype).square().reshape(rows.examples, -1).sum(1)
    return squares


def _by_gradients(loss: Loss, counted: bool, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Computes all gradients at once, in functions that a compiler or a transform follows."""
    grads = per_sample_grad(loss)(params, batch, key)
    dtype = tree.shared_dtype(params)
    leaves = [g.to(dtype).reshape(len(g), -1) for g in tree.leaves(grads)]
    squares = torch.stack([g.square().sum(1) for g in leaves]).sum(0)
    norms = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)

    def weighted(factors: Tensor) -> Tree:
        return tree.map(lambda g: torch.tensordot(factors.to(g.dtype), g, 1), grads)

    totals, parts = loss(params, batch, key), _parts(loss, counted, params, batch, key)
    return Examined(*totals, norms, *parts, weighted, norms.dtype)


def _one_by_one(loss: Loss, counted: bool, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Computes one gradient after the other, with one in memory; a weighted sum computes them again."""
    gradients = [partial(_gradient, loss, params, batch, key, i) for i in range(len(batch["batch_position"]))]
    measured = [(value, tree.norm(g)) for value, g in (gradient() for gradient in gradients)]
    values, norms = (torch.stack(part) for part in zip(*measured, strict=True))
    with torch.no_grad():
        totals = loss(params, batch, key)
    if (totals[0] - values.sum()).abs() > 0.02 * values.abs().sum() + 1e-6:  # bfloat16 rounds to 0.004
        raise ValueError(
            f"per_sample_norms: the loss of the batch is {float(totals[0]):.6g}, and the losses of its "
            f"examples add up to {float(values.sum()):.6g}: {MIXES}"
        )

    def weighted(factors: Tensor) -> Tree:
        total = tree.zeros_like(params)
        for factor, gradient in zip(factors, gradients, strict=True):
            total = tree.map(lambda t, g, f=factor: t + g * f.to(g.dtype), total, gradient()[1])
        return total

    return Examined(*totals, norms, *_parts(loss, counted, params, batch, key), weighted, norms.dtype)


def _gradient(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor, i: int) -> tuple[Tensor, Tree]:
    """The loss of example i, and its gradient."""
    row = tree.map(lambda x: x[i : i + 1], batch)
    return value_and_grad(lambda p: loss(p, row, key)[0])(params)


def _parts(
    loss: Loss, counted: bool, params: Tree, batch: dict[str, Tensor], key: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Loss and count of each example: the derivatives with respect to the weights, times these."""
    if not counted:
        return None, None
    weights = batch["weights"]

    def part(number: int) -> Tensor:
        derivative = grad(lambda w: loss(params, {**batch, "weights": w}, key)[number])(weights)
        return (derivative * weights).reshape(len(weights), -1).sum(1)

    return part(0), part(1)


def _check_counts(examined: Examined) -> None:
    """Checks that the counts of the examples add up to that of the batch."""
    counts = examined.counts
    if counts is None or (counts.sum() - examined.count).abs() > 1e-3 * examined.count.abs():
        found = 0.0 if counts is None else float(counts.sum())  # None: the count does not read the weights
        raise ValueError(
            f"the loss counts {float(examined.count):.6g} over the batch, and {found:.6g} by the weights of "
            "its rows: multiply each row's part of the sum and of the count by its batch['weights'] "
            "(pure.transform.accumulate.Loss)"
        )


def _in_other_order(
    loss: Loss, counted: bool, params: Tree, batch: dict[str, Tensor], key: Tensor, difference: str
) -> Examined:
    """Measures one by one a model whose rows are in an order of its own, such as tokens joined to one axis.

    The gradient of the batch must be the sum of the examples'; else the loss mixes them.
    """
    try:
        examined = _one_by_one(loss, counted, params, batch, key)
    except ValueError as error:
        raise ValueError(f"{difference}: {MIXES}") from error
    whole = grad(lambda p: loss(p, batch, key)[0])(params)
    apart = tree.norm(tree.map(torch.sub, whole, examined.weighted(torch.ones_like(examined.norms))))
    if apart > torch.finfo(examined.precision).eps ** 0.5 * examined.norms.sum():
        raise ValueError(f"{difference}: {MIXES}")
    return examined


def _own_norms(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> dict[int, float]:
    """The norms of the gradients of a few examples alone, spread over the batch, by their index."""
    last = len(batch["batch_position"]) - 1
    some = sorted({round(j * last / (COMPARED - 1)) for j in range(COMPARED)})
    return {i: float(tree.norm(_gradient(loss, params, batch, key, i)[1])) for i in some}


def _find_difference(alone: dict[int, float], examined: Examined) -> str | None:
    """Compares norms with those of the examples' own gradients; describes a difference, or returns None."""
    norms, tolerance = examined.norms, torch.finfo(examined.precision).eps ** 0.5
    largest = float(norms.amax())
    for i, expected in alone.items():
        found = float(norms[i])
        if abs(found - expected) > tolerance * (expected + 1e-3 * largest):
            return (
                f"per_sample_norms: the gradient of example {i} has norm {found:.6g} in the batch and "
                f"{expected:.6g} alone"
            )
    return None
