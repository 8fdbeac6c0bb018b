"""Check that updates, state and parameters have the same shapes: nothing is broadcast."""

from __future__ import annotations

from pure import tree
from pure.types import Tree


def same_shapes(first: Tree, *rest: Tree) -> None:
    """Refuses trees with leaves of different shapes: a gradient [3, 1] of a [3, 2] would be broadcast.

    Args:
        first: updates, or params.
        rest: other trees like it: moments, params, updates.

    Raises:
        ValueError: naming the leaf and the shapes. (`pure.tree.map` refuses trees of another structure.)
    """
    columns = [tree.leaves(x) for x in (first, *rest)]
    if any(len(column) != len(columns[0]) for column in columns):
        return
    for i, row in enumerate(zip(*columns, strict=True)):
        shapes = [getattr(x, "shape", None) for x in row]
        if any(shape != shapes[0] for shape in shapes):
            listed = " and ".join(str(list(shape or ())) for shape in shapes)
            raise ValueError(
                f"optimizer: the leaf {tree.paths(first)[i]!r} has the shapes {listed}; updates, state and "
                "params must have the same, as nothing is broadcast"
            )
