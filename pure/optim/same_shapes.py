"""Updates, state and parameters have the same shapes: nothing is broadcast."""

from __future__ import annotations

from pure import tree
from pure.types import Tree


def same_shapes(first: Tree, *rest: Tree) -> None:
    """Refuses trees whose leaves differ in their shapes: a gradient [3, 1] of a parameter [3, 2] would be
    broadcast.

    Args:
        first: updates, or params.
        rest: what belongs to them: moments, params, updates.

    Raises:
        ValueError: naming the leaf and the shapes. (Trees of another structure are `pure.tree.map`'s to
            refuse.)
    """
    columns = [tree.leaves(one) for one in (first, *rest)]
    if any(len(column) != len(columns[0]) for column in columns):
        return
    for i, row in enumerate(zip(*columns, strict=True)):
        shapes = [getattr(x, "shape", None) for x in row]
        if any(shape != shapes[0] for shape in shapes):
            found = " and ".join(str(list(shape or ())) for shape in shapes)
            raise ValueError(
                f"optimizer: the leaf {tree.paths(first)[i]!r} has the shapes {found}; updates, state and params must "
                "have the same, as nothing is broadcast"
            )
