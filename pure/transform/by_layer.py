"""Layer by layer: runs an update on each layer by itself, so that one compiled graph serves them all.

An update is *leafwise* when updating a part of the tree gives that part of the whole update; all optimizers
here are (whatever is global, such as the norm of all gradients, is handed to them). Then the parts may be as
small as a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from pure import tree
from pure.transform.jit import Region, region, regional
from pure.types import Tree


class Part(NamedTuple):
    """Which leaves make up one layer (or what is in no layer), as indices in flattening order.

    Fields:
        own: leaves of the moving tree that belong to the part's parameters; shared: those that belong to
            none.
        given: leaves of the gradient tree.
        own_spec, shared_spec, given_spec: their structures, the same for every layer: lists hold only this
            layer, and own and shared have `None` in each other's places.
    """

    own: tuple[int, ...]
    shared: tuple[int, ...]
    given: tuple[int, ...]
    own_spec: optree.PyTreeSpec
    shared_spec: optree.PyTreeSpec
    given_spec: optree.PyTreeSpec


def leafwise(function: Callable) -> Callable[..., Tree]:
    """Returns the same update, which under `jit(..., regions=True)` is compiled for one layer and used for
    each.

    Args:
        function: (moving, given, *rest) -> moving: `given` is a tree like the params (gradients), `moving`
            holds trees like the params (the params themselves, an optimizer's moments) and shared leaves.

    Returns:
        A function with the same meaning; a donating jit may write its result into the storage of `moving`.
    """
    return partial(_leafwise, function, region(partial(_part, function), donate=True))


def whole(function: Callable) -> Callable[..., Tree]:
    """Returns the same update, compiled as one region: for an optimizer that looks at several leaves at once.

    Args:
        function: (moving, *rest) -> moving, as in `leafwise`, but any.

    Returns:
        A function with the same meaning; compiling it takes the longer the more leaves there are.
    """
    return partial(_whole, function, region(partial(_with_nothing, function), donate=True))


def leaf_norms(grads: Tree) -> Tensor:
    """Computes the norm of each leaf, in float32: [leaves] in the tree's order; not finite where a leaf is
    not.

    Example:
        >>> leaf_norms({"a": torch.tensor([3.0]), "b": torch.tensor([3.0, 4.0])})
        tensor([3., 5.])
    """
    return torch.stack([torch.linalg.vector_norm(x, dtype=torch.float32) for x in tree.leaves(grads)])


@lru_cache(maxsize=32)
def plan(moving_spec: optree.PyTreeSpec, given_spec: optree.PyTreeSpec) -> tuple[Part, ...]:
    """Sorts the leaves of `moving` by the layer of the parameter whose path their own path ends with.

    A layer is what stands below the first list in a path: "layers/3/attention/q" belongs to "layers/3".
    Leaves whose path ends with no parameter's (an optimizer's count) are shared: every part sees them.
    """
    moving = tree.unflatten(moving_spec, list(range(moving_spec.num_leaves)))
    given = tree.unflatten(given_spec, list(range(given_spec.num_leaves)))
    layer_of = {path: _layer(path) for path in tree.paths(given)}
    there = set(tree.paths(moving))
    owner = [_owner(path, layer_of, there) for path in tree.paths(moving)]
    layer = [layer_of[path] for path in tree.paths(given)]
    return tuple(_make_part(name, moving, given, owner, layer) for name in dict.fromkeys(layer))


def _make_part(name: str, moving: Tree, given: Tree, owner: list[str | None], layer: list[str]) -> Part:
    """The part of one layer."""
    seen = _shrink(tree.map(lambda i: i if owner[i] in (name, None) else None, moving))
    own = tree.map(lambda i: i if owner[i] == name else None, seen)
    shared = tree.map(lambda i: i if owner[i] is None else None, seen)
    mine = _shrink(tree.map(lambda i: i if layer[i] == name else None, given))
    leaves = [tuple(tree.leaves(t)) for t in (own, shared, mine)]
    specs = [tree.structure(t) for t in (own, shared, mine)]
    return Part(*leaves, *specs)  # type: ignore[arg-type]


def _leafwise(function: Callable, unit: Region, moving: Tree, given: Tree, *rest: Any) -> Tree:
    """Whole, or part by part."""
    if not regional():
        return function(moving, given, *rest)
    old, spec = tree.flatten(moving)
    grads, given_spec = tree.flatten(given)
    new = list(old)
    for part in plan(spec, given_spec):
        own = tree.unflatten(part.own_spec, [old[i] for i in part.own])
        shared = tree.unflatten(part.shared_spec, [old[i] for i in part.shared])
        mine = tree.unflatten(part.given_spec, [grads[i] for i in part.given])
        own, shared = unit(own, shared, mine, *rest)
        for i, x in zip(part.own + part.shared, tree.leaves(own) + tree.leaves(shared), strict=True):
            new[i] = x
    return tree.unflatten(spec, new)


def _whole(function: Callable, unit: Region, *args: Any) -> Tree:
    """All leaves at once."""
    return unit(*args)[0] if regional() else function(*args)


def _with_nothing(function: Callable, *args: Any) -> tuple[Tree, tuple]:
    """The form of a donating region, (new, rest)."""
    return function(*args), ()


def _part(function: Callable, own: Tree, shared: Tree, given: Tree, *rest: Any) -> tuple[Tree, Tree]:
    """One part: own and shared leaves put together, updated, and taken apart again."""
    new = function(tree.combine(own, shared), given, *rest)
    return tree.select(own, new), tree.select(shared, new)


def _layer(path: str) -> str:
    """ "layers/3/attention/q" -> "layers/3"; "norm/scale" -> ""."""
    names = path.split("/")
    return next(("/".join(names[: i + 1]) for i, name in enumerate(names) if name.isdigit()), "")


def _owner(path: str, layer_of: dict[str, str], there: set[str]) -> str | None:
    """The layer of the parameter that this leaf accompanies, or None.

    A leaf accompanies a parameter if it stands in a tree like the params, or like a part of them: its path
    ends with the parameter's, and whatever else has the same beginning ends with a parameter's too. (An
    optimizer's own "count" is no parameter of that name.)
    """
    names = path.split("/")
    for i in range(len(names)):
        if (own := "/".join(names[i:])) in layer_of:
            before = path[: len(path) - len(own)]
            if all(other[len(before) :] in layer_of for other in there if other.startswith(before)):
                return layer_of[own]
    return None


def _shrink(node: Any) -> Any:
    """Drops what holds no leaf from lists, so that every layer's part has the same structure."""
    if isinstance(node, list):
        return [_shrink(x) for x in node if tree.leaves(x)]
    if isinstance(node, dict):
        return {k: _shrink(x) for k, x in node.items()}
    if hasattr(node, "_fields"):
        return type(node)(*[_shrink(x) for x in node])
    return tuple(_shrink(x) for x in node) if isinstance(node, tuple) else node
