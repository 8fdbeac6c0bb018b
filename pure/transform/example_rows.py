"""The order of the rows that a model gets, where an example has several: a pair of answers, a group.

Shape letters: B examples, R rows (R = k B), S positions of an example.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pure import tree


class UnknownUseError(NotImplementedError):
    """A param is used in a way that is not recorded; its per-sample gradients must be computed themselves."""


class Rows(NamedTuple):
    """The order of an example's rows, where the model gets k rows an example.

    Fields:
        examples: B.
        adjacent: k if the rows of example b are b k ... b k + k - 1 (answers of one prompt); 0 if they are b,
            B + b, 2 B + b ... (the two answers of a pair).
    """

    examples: int
    adjacent: int


def rows_of(batch: dict[str, Tensor]) -> Rows:
    """Infers the order of rows, if there are several an example, from the batch's axes.

    A batch of groups has tensors [B, k, ...] throughout, which losses flatten, so that rows of an example are
    adjacent. Otherwise several batches of B rows are concatenated.

    Example:
        >>> rows_of({"tokens": torch.zeros(4, 3, 9), "rewards": torch.zeros(4, 3)})
        Rows(examples=4, adjacent=3)
        >>> rows_of({"chosen": torch.zeros(4, 9), "rejected": torch.zeros(4, 9)})
        Rows(examples=4, adjacent=0)
    """
    tensors = tree.leaves(batch)
    second = {x.shape[1] for x in tensors if x.ndim >= 2}
    grouped = len(second) == 1 and any(x.ndim >= 3 for x in tensors)
    return Rows(len(tensors[0]), second.pop() if grouped else 0)


def rows_each(rows: Rows, count: int) -> int:
    """Computes the number of rows that each example has.

    Raises:
        UnknownUseError: if the rows are no multiple of the examples, or another one than the batch says.
    """
    each, rest = divmod(count, rows.examples)
    if rest or each == 0 or (rows.adjacent and each not in (1, rows.adjacent)):
        raise UnknownUseError(f"an input has {count} rows, and the batch {rows.examples} examples")
    return each


def by_row(rows: Rows, x: Tensor, count: int) -> Tensor:
    """Repeats the numbers of each example for its rows: [B, ...] -> [R, ...].

    Args:
        rows: the order of the rows.
        x: [B, ...].
        count: R.

    Raises:
        UnknownUseError: as `rows_each`.

    Example:
        >>> by_row(Rows(2, 0), torch.tensor([7, 8]), 4)
        tensor([7, 8, 7, 8])
        >>> by_row(Rows(2, 2), torch.tensor([7, 8]), 4)
        tensor([7, 7, 8, 8])
    """
    each = rows_each(rows, count)
    if each == 1:
        return x
    axis, sizes = (1, (len(x), each)) if rows.adjacent else (0, (each, len(x)))
    return x.unsqueeze(axis).expand(*sizes, *x.shape[1:]).flatten(0, 1)


def by_example(rows: Rows, x: Tensor) -> Tensor:
    """Gathers the rows of each example into one sequence: [R, ..., D] -> [B, S, D] (a view, if R = B).

    Example:
        >>> by_example(Rows(2, 0), torch.arange(4)[:, None, None])[..., 0]
        tensor([[0, 2],
                [1, 3]])
    """
    each = len(x) // rows.examples
    if each > 1 and not rows.adjacent:
        x = x.unflatten(0, (each, rows.examples)).transpose(0, 1)
    return x.reshape(rows.examples, -1, x.shape[-1])
