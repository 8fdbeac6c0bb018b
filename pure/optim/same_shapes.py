"""Check that params are given, and that updates, state and params have the same shapes."""

from __future__ import annotations

from pure import tree
from pure.types import Tree


def check_same_shapes(first: Tree, *rest: Tree) -> None:
    """Refuses trees whose leaves differ in shape: a gradient [3, 1] of a parameter [3, 2] would be broadcast.

    Args:
        first: updates, or params.
        rest: other trees like it: moments, params, updates.

    Raises:
        ValueError: naming the leaf and the shapes.
    """
    leaves = [tree.leaves(x) for x in (first, *rest)]
    if any(len(x) != len(leaves[0]) for x in leaves):
        return  # another structure, which `pure.tree.map` refuses
    for i, row in enumerate(zip(*leaves, strict=True)):
        shapes = [getattr(x, "shape", None) for x in row]
        if any(shape != shapes[0] for shape in shapes):
            listed = " and ".join(str(list(shape or ())) for shape in shapes)
            raise ValueError(
                f"optimizer: the leaf {tree.paths(first)[i]!r} has the shapes {listed}; updates, state and "
                "params must have the same, as nothing is broadcast"
            )


def require_params(caller: str, params: Tree | None) -> Tree:
    """Returns the params, without which some transformations have no update.

    Args:
        caller: name of the transformation, for the message.
        params: as its update was called.

    Raises:
        ValueError: if they are None.
    """
    if params is None:
        raise ValueError(f"{caller}: expected params, got None; call update(grads, state, params)")
    return params
