"""Weights of a batch's rows, for every loss.

A batch may carry "weights" [B]. The parts of row b in the loss's sum, in its count and in the metrics are
multiplied by weight b: 0 leaves the row out, 2 counts it twice, and derivatives with respect to the weights
say what each row does (`stages/influence.py`).

Shape letters: B rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure import tree
from pure.transform.accumulate import Loss, number_rows, row_count
from pure.types import Tree


def row_weights(batch: Tree) -> Tensor | None:
    """Return the weights of a batch's rows, or None where it has none.

    Args:
        batch: dict of tensors [B, ...].

    Returns:
        [B] float, or None: each row counts once.

    Raises:
        TypeError: if "weights" is not of a float dtype.
        ValueError: if it is not [B].

    Example:
        >>> row_weights({"tokens": torch.zeros(2, 3), "weights": torch.tensor([1.0, 0.0])})
        tensor([1., 0.])
    """
    weights = batch.get("weights")
    if weights is None:
        return None
    rows = next(len(x) for name, x in batch.items() if name != "weights")
    if not weights.is_floating_point():
        raise TypeError(f"batch: weights must be float, got {weights.dtype}; convert them with .float()")
    if weights.shape != (rows,):
        raise ValueError(
            f"batch: expected weights [B] with B = {rows}, one for each row, got {list(weights.shape)}; "
            "weights of tokens are read by a loss of your own, with cross_entropy(logits, labels, weights)"
        )
    return weights


def counted_rows(batch: Tree, real: Tensor) -> Tensor:
    """Return by how much each row counts: 0 for padding, else its weight.

    Args:
        batch: dict of tensors [B, ...], with "weights" [B] or without.
        real: [B] bool, False for padding.

    Returns:
        [B] float.

    Example:
        >>> counted_rows({"x": torch.zeros(2)}, torch.tensor([True, False]))
        tensor([1., 0.])
    """
    weights = row_weights(batch)
    return real.float() if weights is None else torch.where(real, weights, 0.0)


def weights_or_ones(caller: str, batch: Tree, params: Tree) -> Tensor:
    """Return the weights of a batch's rows, or 1 in the precision of the params, for derivatives.

    Args:
        caller: the caller's name in an error.
        batch: dict of tensors [B, ...], with "weights" [B] or without.
        params: tree of tensors.

    Returns:
        [B] float.

    Raises:
        ValueError: for a batch without rows, or whose leaves differ in their number of rows.

    Example:
        >>> weights_or_ones("influence", {"x": torch.zeros(2, 3)}, {"w": torch.zeros(4)})
        tensor([1., 1.])
    """
    if "weights" in batch:
        return batch["weights"]
    dtype, device = tree.shared_dtype(params), tree.leaves(params)[0].device
    return torch.ones(row_count(caller, batch), dtype=dtype, device=device)


def check_weights_read(caller: str, loss: Loss, params: Tree, batch: Tree) -> None:
    """Check that the loss of a batch is another one under other weights of its rows.

    Args:
        caller: the caller's name in an error.
        loss: (params, batch, key) -> (sum, count, metrics).
        params: of the loss.
        batch: dict of tensors [B, ...] with "weights" [B].

    Raises:
        ValueError: if twice the weights give the same sum, and it is not 0: the loss does not read them.

    Example:
        >>> def square(params, batch, key):
        ...     return (batch["weights"] * params.square()).sum(), batch["weights"].sum(), {}
        >>> check_weights_read("influence", square, torch.tensor(3.0), {"weights": torch.ones(2)})
    """
    batch = number_rows(caller, batch)
    with torch.no_grad():
        once, twice = (loss(params, {**batch, "weights": n * batch["weights"]}, None)[0] for n in (1, 2))
    if (once == twice) & (once != 0):
        raise ValueError(
            f'{caller}: the loss does not read batch["weights"] [B], so that no row has an influence; '
            "multiply the parts of each row in sum and count by its weight"
        )


def sum_rows(function: Callable[..., Tree], weights: Tensor | None, *rows: Tree) -> Tree:
    """Compute sums over rows, each times its weight, with a function that sums over rows.

    Args:
        function: (*rows) -> tree of sums [], each a sum over the rows.
        weights: [B] float, or None: each row counts once, and the function is called as it is.
        rows: trees of tensors [B, ...].

    Returns:
        A tree like the function's.

    Example:
        >>> sum_rows(torch.sum, torch.tensor([1.0, 2.0]), torch.tensor([10.0, 1.0]))
        tensor(12.)
    """
    if weights is None:
        return function(*rows)
    leaves, spec = tree.flatten(rows)
    structures: list = []  # known once the function has run

    def sum_one_row(*leaves: Tensor) -> tuple[Tensor, ...]:
        results, structure = tree.flatten(function(*tree.unflatten(spec, [x[None] for x in leaves])))
        structures.append(structure)
        return tuple(results)

    sums = torch.func.vmap(sum_one_row)(*leaves)
    return tree.unflatten(structures[0], [(x * weights).sum() for x in sums])
