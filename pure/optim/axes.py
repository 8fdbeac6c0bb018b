"""Dimension numbers: the input and output axes of a weight, for one weight or a tree of them.

Shape letters: O outputs, I inputs of a matrix [O, I]; N matrices in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from pure import tree
from pure.optim.leafwise import leafwise
from pure.optim.mask import MaskedNode
from pure.types import Tree

EXEMPT = ("norm", "bias", "embed", "head")
"""Parts of a path: leaves that have one of them are not for Muon in `hidden_matrices`."""


class MuonDimensionNumbers(NamedTuple):
    """The input and output axes of a weight; the others are a batch of matrices.

    The default is this project's (and torch's) layout [O, I]. optax's default is its transpose,
    reduction_axis=0 and output_axis=1: give it these numbers to get the same updates there.
    """

    reduction_axis: int | Sequence[int] = 1  # summed over in a product: the inputs
    output_axis: int | Sequence[int] = 0


Dimensions = MuonDimensionNumbers | Tree | Callable[[Tree], Tree]
"""The same numbers for all leaves, a tree of them (None: not a matrix), or a function from params to one."""


@leafwise
def hidden_matrices(params: Tree) -> Tree:
    """Selects the matrices of the layers for Muon; embeddings, the head, norms and biases go to Adam.

    Rows of an embedding are looked up, not multiplied, and the head is its counterpart: both train better
    with Adam.

    Args:
        params: a tree; its paths and numbers of axes are read.

    Returns:
        A tree like `params`: MuonDimensionNumbers() for leaves of two axes whose path has none of "norm",
        "bias", "embed" and "head"; None for the others. Pass the function as `muon(...,
        muon_weight_dimension_numbers=hidden_matrices)`.

    Example:
        >>> matrix = torch.zeros(2, 2)
        >>> hidden_matrices({"embedding": matrix, "layers": [{"q": matrix}]})
        {'embedding': None, 'layers': [{'q': MuonDimensionNumbers(reduction_axis=1, output_axis=0)}]}
    """

    def select(path: str, x: Tensor) -> MuonDimensionNumbers | None:
        exempt = any(word in path for word in EXEMPT)
        return MuonDimensionNumbers() if x.ndim == 2 and not exempt else None

    return tree.map_with_path(select, params)


def resolve(dimensions: Dimensions, like: Tree) -> list[MuonDimensionNumbers | None]:
    """Lists the dimension numbers of every leaf of `like`, in the order of leaves.

    Args:
        dimensions: see `Dimensions`; a tree may also be a prefix of `like`.
        like: params, or updates.

    Example:
        >>> resolve({"a": MuonDimensionNumbers(), "b": None}, {"a": [7, 8], "b": 9})[1:]
        [MuonDimensionNumbers(reduction_axis=1, output_axis=0), None]
    """
    return _numbers_of_leaves(dimensions(like) if callable(dimensions) else dimensions, like)


def input_and_output(
    x: Tensor, numbers: MuonDimensionNumbers | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the input axes and the output axes of a weight, counted from 0.

    Raises:
        ValueError: if the weight has fewer than two axes or no dimension numbers, or if an axis is both input
            and output.
    """
    if numbers is None or x.ndim < 2:
        raise ValueError(
            f"muon: expected a matrix, got a leaf {tuple(x.shape)} with dimension numbers {numbers}; use "
            "muon(...), which gives other leaves to Adam, or set muon_weight_dimension_numbers"
        )
    inputs, outputs = (_nonnegative(axes, x.ndim) for axes in numbers)
    if set(inputs) & set(outputs):
        raise ValueError(f"muon: input and output axes must differ, got {numbers} for shape {tuple(x.shape)}")
    return inputs, outputs


def as_matrices(x: Tensor, numbers: MuonDimensionNumbers | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Reshapes a weight to a batch of matrices.

    Args:
        x: a weight.
        numbers: its axes.

    Returns:
        ([N, I, O], the inverse function).
    """
    inputs, outputs = input_and_output(x, numbers)
    batch = tuple(i for i in range(x.ndim) if i not in inputs + outputs)
    order = batch + inputs + outputs
    moved = x.permute(order)
    sizes = [math.prod([x.shape[i] for i in axes]) for axes in (batch, inputs, outputs)]
    inverse = tuple(order.index(i) for i in range(x.ndim))
    return moved.reshape(sizes), lambda y: y.reshape(moved.shape).permute(inverse)


def _nonnegative(axes: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Converts one axis or several, perhaps negative, to axes counted from 0."""
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(axis % ndim for axis in axes)


def _numbers_of_leaves(numbers: Tree, node: Tree) -> list[MuonDimensionNumbers | None]:
    """Lists the numbers of each leaf of `node`; `numbers` is a tree like it, or a prefix."""
    if numbers is None or isinstance(numbers, MuonDimensionNumbers):
        return [numbers for _ in tree.leaves(node)]
    if node is None or isinstance(node, MaskedNode):
        return []
    if isinstance(node, dict):
        return [d for k in sorted(node) for d in _numbers_of_leaves(numbers[k], node[k])]
    return [d for a, b in zip(numbers, node, strict=True) for d in _numbers_of_leaves(a, b)]
