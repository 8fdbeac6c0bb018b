"""Ghost norms: the norm of each example's gradient without the gradient, and sums of clipped gradients.

Differential privacy, outlier detection and noise scales need the norms of the examples' gradients, which
together take B times the memory of the params. One backward pass of the batch gives every norm, and a sum of
the gradients with any weights costs one more product for each matrix.

Shape letters: B examples.

Goodfellow, "Efficient Per-Example Gradient Computations", 2015; Li et al., "Large Language Models Can Be
Strong Differentially Private Learners", 2022; Bu et al., "Differentially Private Optimization on Large Model
at Small Cost", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.loss.check import check_range
from pure.transform.accumulate import Loss, Metric, row_count
from pure.transform.book_keeping import Receive, Recorded, Rows, UnknownUseError, Use, record, rows_of
from pure.transform.ghost_norm import Term, input_gram, squared_norms, term_of, weighted_sum
from pure.transform.grad import grad
from pure.transform.modes import has_values, may_be_differentiated
from pure.transform.per_sample import per_sample_grad
from pure.types import Tree

COMPARED = 4
"""Examples whose norms are compared with those of their own gradients, in the first call."""


class Examined(NamedTuple):
    """A batch whose examples' gradients have been measured.

    Fields:
        sum, count, metrics: those of the loss of the whole batch.
        norms: [B] float, norm of the gradient of each example's loss (its sum).
        counts: [B] float, the count of each example alone.
        weighted: factors [B] -> Σ_b factors[b] G[b], a tree like the params.
        precision: dtype of the products from which the norms are computed.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]
    metrics: dict[str, Metric]
    norms: Tensor
    counts: Tensor
    weighted: Callable[[Tensor], Tree]
    precision: torch.dtype


def per_sample_norms(loss: Loss) -> Callable[..., Tensor]:
    """Returns a function that computes the norm of each example's gradient, without the gradient.

        norms[b] = ‖∂ sum(loss of example b) / ∂params‖

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as in
            `pure.transform.accumulate.accumulate`. An example is a row of the batch: one text, one pair, one
            group of answers.

    Returns:
        (params, batch, key) -> [B] float32, or float64 with float64 params. The batch is a dict of tensors
        [B, ...]; "batch_position" is added where it is missing.

    Edge cases: an example without gradient has norm 0. `remat` and the chunks of a loss save no memory here.
        Params that are used otherwise than in products (`x @ W.T`, `linear`), lookups, norms and elementwise
        operations with the model's states, a model whose rows are no multiple of B, and a call under a
        compiler, a transform or an outer gradient: computed from the gradients themselves, which takes longer
        (by `pure.transform.per_sample`).

    Raises:
        ValueError: if the batch has no rows, or its leaves differ in their number of rows; in a first call on
            values, if an example's gradient in the batch differs from its gradient alone, as the loss mixes
            examples.

    Example:
        The loss is w · x; the gradient of each example is x.

        >>> def loss(w, batch, key):
        ...     return (batch["x"] @ w.T).sum(), torch.tensor(1.0), {}
        >>> batch = {"x": torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])}
        >>> per_sample_norms(loss)(torch.ones(1, 2), batch, torch.tensor([0, 0]))
        tensor([5., 2.])

    Source: Goodfellow 2015, section 5; Li et al. 2022, section 4, with the inner product of the two uses of a
    tied embedding, which they leave out.
    """
    return partial(_norms, examine(loss, keep=False))


def clipped_sum(
    loss: Loss, max_norm: float | Tensor, *, keep: bool = True
) -> Callable[..., tuple[Tree, Tensor]]:
    """Returns a function that adds the examples' gradients, each clipped to a norm of at most `max_norm`.

        Σ_b min(1, max_norm / ‖G[b]‖) G[b]

    Args:
        loss: as in `per_sample_norms`.
        max_norm: > 0; infinity gives the gradient of the batch.
        keep: keep the input and the output gradient of every matrix, and add the clipped gradients from them
            (one pass: book-keeping); False runs a second forward and backward pass (least memory).

    Returns:
        (params, batch, key) -> (grads like the params, norms [B] before clipping).

    Edge cases: as `per_sample_norms`; an example without gradient adds 0.

    Raises:
        ValueError: if max_norm is not above 0; on the call, as `per_sample_norms`.

    Example:
        Gradients (3, 4) and (0, 2), clipped to norm 1.

        >>> def loss(w, batch, key):
        ...     return (batch["x"] @ w.T).sum(), torch.tensor(1.0), {}
        >>> batch = {"x": torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])}
        >>> clipped_sum(loss, 1.0)(torch.ones(1, 2), batch, torch.tensor([0, 0]))
        (tensor([[0.6000, 1.8000]]), tensor([5., 2.]))

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1; in one pass as Bu et
    al. 2023, section 3.
    """
    check_range("clipped_sum", "above 0", max_norm=max_norm)
    return partial(_clipped_sum, examine(loss, keep=keep), max_norm)


def examine(loss: Loss, *, keep: bool = True) -> Callable[..., Examined]:
    """Returns a function that measures each example's gradient; any weighted sum of them follows.

    Args:
        loss: as in `per_sample_norms`.
        keep: as in `clipped_sum`.

    Returns:
        (params, batch, key) -> Examined. Its `weighted` may be called several times with `keep`.
    """
    return partial(_examine, loss, keep, set())


def clip_factors(norms: Tensor, max_norm: float | Tensor) -> Tensor:
    """Computes min(1, max_norm / norm), 1 for a norm of 0.

    Example:
        >>> clip_factors(torch.tensor([0.0, 1.0, 4.0]), 2.0)
        tensor([1.0000, 1.0000, 0.5000])
    """
    above = norms > max_norm
    return torch.where(above, max_norm / torch.where(above, norms, 1.0), 1.0).to(norms.dtype)


def _norms(examine_fn: Callable[..., Examined], params: Tree, batch: dict[str, Tensor], key: Tensor) -> Tensor:
    """The norms only."""
    return examine_fn(params, batch, key).norms


def _clipped_sum(
    examine_fn: Callable[..., Examined],
    max_norm: float | Tensor,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
) -> tuple[Tree, Tensor]:
    """The sum of the clipped gradients, and the norms."""
    examined = examine_fn(params, batch, key)
    return examined.weighted(clip_factors(examined.norms, max_norm)), examined.norms


def _examine(
    loss: Loss, keep: bool, seen: set, params: Tree, batch: dict[str, Tensor], key: Tensor
) -> Examined:
    """Measures by recording, or by the gradients themselves where that is not possible.

    Steps:
        1. Number the examples, and give them weights.
        2. Under a compiler, a transform or an outer gradient: all gradients at once.
        3. Record. If a param is used in an unknown way: the gradients one after the other.
        4. Compare a few norms with those of the examples' own gradients, in the first call.
    """
    # 1. Rows.
    count = row_count("per_sample_norms", batch)
    device = tree.leaves(batch)[0].device
    batch = {"batch_position": torch.arange(count, device=device), **batch}
    if "weights" not in batch:
        batch["weights"] = torch.ones(count, dtype=tree.shared_dtype(params), device=device)
    # 2. Transforms.
    if not has_values((params, batch, key)) or may_be_differentiated((params, batch)):
        return _by_gradients(loss, params, batch, key)
    # 3. Recording.
    if "unknown" in seen:
        return _one_by_one(loss, params, batch, key)
    try:
        examined = _recorded(loss, keep, params, batch, key)
    except UnknownUseError:
        seen.add("unknown")
        return _one_by_one(loss, params, batch, key)
    # 4. Comparison.
    if (signature := (rows_of(batch))) not in seen:
        _compare(loss, params, batch, key, examined)
        seen.add(signature)
    return examined


def _recorded(loss: Loss, keep: bool, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Measures the gradient of each output when it is computed; keeps it, or computes it again for a sum."""
    kept: dict[int, Tensor] = {}
    rows, (leaves, spec) = rows_of(batch), tree.flatten(params)
    measure, squared_norms_of_matrices = _measuring(rows)

    def receive(number: int, uses: list[Use], d: Tensor) -> None:
        measure(number, uses, d)
        if keep:
            kept[number] = d

    recorded = record(loss, params, batch, key, receive)

    def weighted(factors: Tensor) -> Tree:
        sums: dict[int, Tensor] = {}

        def add(number: int, uses: list[Use], d: Tensor) -> None:
            leaf = uses[number].leaf
            part = weighted_sum(rows, uses[number], d, factors, leaves[leaf])
            sums[leaf] = sums[leaf] + part if leaf in sums else part

        if keep:
            for number, d in kept.items():
                add(number, recorded.uses, d)
        else:
            record(loss, params, batch, key, add)
        for leaf, g in recorded.vectors.items():
            sums[leaf] = torch.tensordot(factors.to(g.dtype), g, 1)
        return tree.unflatten(spec, [sums[i] if i in sums else torch.zeros_like(x) for i, x in enumerate(leaves)])

    squares = squared_norms_of_matrices() + _vector_squares(recorded, rows, params)
    return _examined(recorded, squares, weighted, batch)


def _measuring(rows: Rows) -> tuple[Receive, Callable[[], Tensor | float]]:
    """Makes a function that receives gradients of outputs, and one that returns the squared norms [B] so far.

    A matrix with several uses (a tied embedding) is measured when all have been received. The gram of an
    input that several matrices share is computed once.
    """
    waiting: dict[int, list[Term]] = {}
    squares: list[Tensor] = []
    grams: dict[int, Tensor | None] = {}  # of the last shared input

    def measure(number: int, uses: list[Use], d: Tensor) -> None:
        use = uses[number]
        if not use.is_lookup and sum(other.inputs is use.inputs for other in uses) > 1:
            if id(use.inputs) not in grams:
                grams.clear()
                grams[id(use.inputs)] = input_gram(rows, use)
        waiting.setdefault(use.leaf, []).append(term_of(rows, use, d, grams.get(id(use.inputs))))
        if len(waiting[use.leaf]) == sum(other.leaf == use.leaf for other in uses):
            squares.append(squared_norms(waiting.pop(use.leaf)))

    def finish() -> Tensor | float:
        return sum([*squares, *(squared_norms(terms) for terms in waiting.values())])

    return measure, finish


def _examined(
    recorded: Recorded, squares: Tensor, weighted: Callable[[Tensor], Tree], batch: dict[str, Tensor]
) -> Examined:
    """The result of a recording; an example's count is its own weight times that of a unit of weight."""
    counts = None if recorded.counts is None else recorded.counts * batch["weights"]
    dtypes = [use.inputs.dtype for use in recorded.uses if not use.is_lookup] or [squares.dtype]
    precision = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    return Examined(
        recorded.sum, recorded.count, recorded.metrics, squares.sqrt(), counts, weighted, precision
    )


def _vector_squares(recorded: Recorded, rows: Rows, params: Tree) -> Tensor:
    """The squared norms of the gradients of all vectors together: [B]."""
    squares = torch.zeros(rows.examples, dtype=tree.shared_dtype(params), device=recorded.sum.device)
    for g in recorded.vectors.values():
        squares = squares + g.to(squares.dtype).square().flatten(1).sum(1)
    return squares


def _by_gradients(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Computes all gradients at once, in functions that a compiler or a transform follows."""
    grads = per_sample_grad(loss)(params, batch, key)
    dtype = tree.shared_dtype(params)
    squares = sum(g.to(dtype).square().flatten(1).sum(1) for g in tree.leaves(grads))
    assert isinstance(squares, Tensor), "params have a leaf"
    norms = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)

    def weighted(factors: Tensor) -> Tree:
        return tree.map(lambda g: torch.tensordot(factors.to(g.dtype), g, 1), grads)

    return Examined(*loss(params, batch, key), norms, _counts(loss, params, batch, key), weighted, norms.dtype)


def _one_by_one(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Examined:
    """Computes one gradient after the other, with one in memory; a weighted sum computes them again."""
    count = len(batch["batch_position"])
    norms = torch.stack([tree.norm(_gradient(loss, params, batch, key, i)) for i in range(count)])

    def weighted(factors: Tensor) -> Tree:
        total = tree.zeros_like(params)
        for i in range(count):
            g = _gradient(loss, params, batch, key, i)
            tree.map(lambda t, x, i=i: t.add_(x * factors[i].to(x.dtype)), total, g)
        return total

    with torch.no_grad():
        totals = loss(params, batch, key)
    return Examined(*totals, norms, _counts(loss, params, batch, key), weighted, norms.dtype)


def _counts(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor) -> Tensor:
    """The count of each example: its derivative with respect to the weight, times the weight: [B]."""

    def count(weights: Tensor) -> Tensor:
        return loss(params, {**batch, "weights": weights}, key)[1]

    return grad(count)(batch["weights"]) * batch["weights"]


def _gradient(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor, i: int) -> Tree:
    """The gradient of example i."""
    row = tree.map(lambda x: x[i : i + 1], batch)
    return grad(lambda p: loss(p, row, key)[0])(params)


def _compare(loss: Loss, params: Tree, batch: dict[str, Tensor], key: Tensor, examined: Examined) -> None:
    """Checks the norms of a few examples, spread over the batch, against their own gradients."""
    norms, tolerance = examined.norms, torch.finfo(examined.precision).eps ** 0.5
    count = len(norms)
    for i in sorted({round(j * (count - 1) / (COMPARED - 1)) for j in range(COMPARED)}):
        alone = tree.norm(_gradient(loss, params, batch, key, i))
        if (norms[i] - alone).abs() > tolerance * (alone + 1e-3 * norms.amax()):
            raise ValueError(
                f"per_sample_norms: the gradient of example {i} has norm {float(norms[i]):.6g} in the batch "
                f"and {float(alone):.6g} alone: the loss mixes examples, or reorders its rows; return the sum "
                "over examples in their order, and numbers of the whole batch as leaves of the batch"
            )
