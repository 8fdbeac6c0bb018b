"""Updates layer by layer, so that one compiled graph serves all layers.

An update is *leafwise* if updating a part of the tree gives that part of the whole update. Most optimizers
here are (global values, such as the norm of all gradients, are arguments). A part can be a single layer.
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
from pure.transform.modes import is_traced
from pure.types import Tree


class Part(NamedTuple):
    """The leaves of one layer (or those outside all layers), as indices in flattening order.

    Fields:
        own: leaves of the trained tree that belong to the part's parameters.
        shared: leaves of the trained tree that belong to no parameter.
        grads: leaves of the gradient tree.
        own_spec, shared_spec, grads_spec: the structures of the three, the same for every layer: lists are
            reduced to this layer's element. In the structure of own, shared leaves are `None`, and in that of
            shared, own leaves.
    """

    own: tuple[int, ...]
    shared: tuple[int, ...]
    grads: tuple[int, ...]
    own_spec: optree.PyTreeSpec
    shared_spec: optree.PyTreeSpec
    grads_spec: optree.PyTreeSpec


def update_by_layer(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Returns the same update, layer by layer; under `jit(..., regions=True)` compiled once for all layers.

    Args:
        function: leafwise, (trained, grads, *rest) -> trained. `grads` is a tree like the params.
            `trained` holds trees like the params (the params themselves, an optimizer's moments)
            and shared leaves.

    Returns:
        An equal function; a donating jit may write its result into the storage of `trained`.
    """
    return partial(_update_by_layer, function, region(partial(_update_part, function), donate=True))


def update_at_once(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Returns the same update, compiled as one region: for an optimizer that is not leafwise.

    Args:
        function: (trained, *rest) -> trained, as in `update_by_layer`, but not leafwise.

    Returns:
        An equal function; its compilation takes longer with more leaves.
    """
    return partial(_update_at_once, function, region(partial(_with_empty_rest, function), donate=True))


def leaf_norms(grads: Tree) -> Tensor:
    """Computes the norm of each leaf: [leaves] in the tree's order; not finite where a leaf is not.

    The norms are float32, or float64 if a leaf is.

    Example:
        >>> leaf_norms({"a": torch.tensor([3.0]), "b": torch.tensor([3.0, 4.0])})
        tensor([3., 5.])
    """
    dtype = tree.shared_dtype(grads)
    return torch.stack([torch.linalg.vector_norm(x, dtype=dtype) for x in tree.leaves(grads)])


@lru_cache(maxsize=32)
def plan_parts(trained_spec: optree.PyTreeSpec, grads_spec: optree.PyTreeSpec) -> tuple[Part, ...]:
    """Assigns each leaf of `trained` to the layer of its parameter, whose path is the end of the leaf's path.

    A layer is an element of the first list in a path: "layers/3/attention/q" belongs to "layers/3". Leaves
    that belong to no parameter (an optimizer's count) are shared: every part gets them.
    """
    trained = tree.unflatten(trained_spec, list(range(trained_spec.num_leaves)))
    grads = tree.unflatten(grads_spec, list(range(grads_spec.num_leaves)))
    layer_of = {path: layer_name(path) for path in tree.paths(grads)}
    all_paths = set(tree.paths(trained))
    owner = [_owner(path, layer_of, all_paths) for path in tree.paths(trained)]
    layer = [layer_of[path] for path in tree.paths(grads)]
    return tuple(_make_part(name, trained, grads, owner, layer) for name in dict.fromkeys(layer))


def layer_name(path: str) -> str:
    """Return the layer of a path; "" for a leaf outside all lists.

    Example:
        >>> layer_name("layers/3/attention/q"), layer_name("norm/scale")
        ('layers/3', '')
    """
    names = path.split("/")
    return next(("/".join(names[: i + 1]) for i, name in enumerate(names) if name.isdigit()), "")


def _make_part(name: str, trained: Tree, grads: Tree, owner: list[str | None], layer: list[str]) -> Part:
    """Builds the part of one layer."""
    own_and_shared = _drop_empty_elements(
        tree.map(lambda i: i if owner[i] in (name, None) else None, trained)
    )
    own = tree.map(lambda i: i if owner[i] == name else None, own_and_shared)
    shared = tree.map(lambda i: i if owner[i] is None else None, own_and_shared)
    own_grads = _drop_empty_elements(tree.map(lambda i: i if layer[i] == name else None, grads))
    leaves = [tuple(tree.leaves(t)) for t in (own, shared, own_grads)]
    specs = [tree.structure(t) for t in (own, shared, own_grads)]
    return Part(*leaves, *specs)  # type: ignore[arg-type]


def _update_by_layer(
    function: Callable[..., Tree], unit: Region, trained: Tree, grads: Tree, *rest: Any
) -> Tree:
    """Updates part by part, so that no more than one layer's intermediate values are in memory.

    At once where a compiler, a tracer or a transform of torch.func sees every operation.
    """
    if not regional() and is_traced():
        return function(trained, grads, *rest)
    old, spec = tree.flatten(trained)
    grad_leaves, grads_spec = tree.flatten(grads)
    new = list(old)
    for part in plan_parts(spec, grads_spec):
        own = tree.unflatten(part.own_spec, [old[i] for i in part.own])
        shared = tree.unflatten(part.shared_spec, [old[i] for i in part.shared])
        own_grads = tree.unflatten(part.grads_spec, [grad_leaves[i] for i in part.grads])
        own, shared = unit(own, shared, own_grads, *rest)
        for i, x in zip(part.own + part.shared, tree.leaves(own) + tree.leaves(shared), strict=True):
            new[i] = x
    return tree.unflatten(spec, new)


def _update_at_once(function: Callable[..., Tree], unit: Region, *args: Any) -> Tree:
    """Updates all leaves, in a region where regions are compiled."""
    return unit(*args)[0] if regional() else function(*args)


def _with_empty_rest(function: Callable[..., Tree], *args: Any) -> tuple[Tree, tuple]:
    """Adds the second result that a donating region returns, (new, rest)."""
    return function(*args), ()


def _update_part(
    function: Callable[..., Tree], own: Tree, shared: Tree, grads: Tree, *rest: Any
) -> tuple[Tree, Tree]:
    """Combines own and shared leaves, updates them, and splits them again."""
    new = function(tree.combine(own, shared), grads, *rest)
    return tree.select(own, new), tree.select(shared, new)


def _owner(path: str, layer_of: dict[str, str], all_paths: set[str]) -> str | None:
    """The layer of the parameter to which a leaf belongs, or None.

    A leaf belongs to a parameter if it is in a tree like the params, or like a part of them: its path ends
    with the parameter's path, and every other path with the same prefix ends with a parameter's path too. (An
    optimizer's own "count" is not a parameter of that name.)
    """
    names = path.split("/")
    for i in range(len(names)):
        if (suffix := "/".join(names[i:])) in layer_of:
            prefix = path[: len(path) - len(suffix)]
            if all(other[len(prefix) :] in layer_of for other in all_paths if other.startswith(prefix)):
                return layer_of[suffix]
    return None


def _drop_empty_elements(node: Any) -> Any:
    """Removes elements without leaves from lists, so that the parts of all layers have the same structure."""
    if isinstance(node, list):
        return [_drop_empty_elements(x) for x in node if tree.leaves(x)]
    if isinstance(node, dict):
        return {k: _drop_empty_elements(x) for k, x in node.items()}
    if hasattr(node, "_fields"):
        return type(node)(*[_drop_empty_elements(x) for x in node])
    if isinstance(node, tuple):
        return tuple(_drop_empty_elements(x) for x in node)
    return node
