"""Operations on pytrees: nested dict / list / tuple / NamedTuple of tensors, with `None` an empty node.

A thin layer over optree, whose leaf order (sorted keys) and treatment of `None` are JAX's. Leaves are
addressed by their path, "layers/0/attention/q", never by their index.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor

from pure.types import Tree


def map(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Applies `function` leaf by leaf: `map(f, t, u)` has f(t_leaf, u_leaf) wherever t has a leaf.

    Args:
        function: takes one leaf of each tree.
        tree: gives the structure of the result.
        rest: further trees of the same structure.

    Returns:
        A tree of the structure of `tree`.

    Raises:
        ValueError: if a tree of `rest` has another structure.

    Example:
        >>> map(lambda a, b: a + b, {"x": 1, "y": [2]}, {"x": 10, "y": [20]})
        {'x': 11, 'y': [22]}
    """
    return optree.tree_map(function, tree, *rest)


def map_with_path(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Applies `function(path, leaf, ...)` leaf by leaf, with paths such as "layers/0/attention/q".

    Example:
        >>> map_with_path(lambda path, x: path, {"layers": [{"q": 0}]})
        {'layers': [{'q': 'layers/0/q'}]}
    """
    return optree.tree_map(function, _path_tree(tree, ""), tree, *rest)


def leaves(tree: Tree) -> list:
    """Lists the leaves, dict keys in sorted order (JAX's order).

    Example:
        >>> leaves({"b": [1, None], "a": 2})
        [2, 1]
    """
    return _collect(tree, []) if torch.compiler.is_compiling() else optree.tree_leaves(tree)


def nodes(node_type: type, tree: Tree) -> list:
    """Lists the nodes of one NamedTuple type, such as the quantised matrices of a model.

    Example:
        >>> from pure.nn.packed import Packed
        >>> len(nodes(Packed, {"a": torch.ones(1), "b": [Packed(torch.ones(2))]}))
        1
    """
    parts = optree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, node_type))
    return [x for x in parts if isinstance(x, node_type)]


def structure(tree: Tree) -> Any:
    """Returns the tree without its leaves; two trees match when their structures are equal."""
    return flatten(tree)[1]


def flatten(tree: Tree) -> tuple[list, Any]:
    """Returns (leaves, structure); `unflatten` is the inverse.

    The structure is optree's. While Dynamo traces, which cannot follow optree, it is the tree with each leaf
    replaced by its index.
    """
    if not torch.compiler.is_compiling():
        return optree.tree_flatten(tree)
    indices = itertools.count()
    return _collect(tree, []), _sorted_map(lambda _: next(indices), tree)


def unflatten(spec: Any, values: list) -> Tree:
    """Puts `values` (in the order of `leaves`) into the structure `spec`."""
    if isinstance(spec, optree.PyTreeSpec):
        return optree.tree_unflatten(spec, values)
    return optree.tree_map(lambda i: values[i], spec)  # a tree of indices, see `flatten`


def paths(tree: Tree) -> list[str]:
    """Names every leaf, in the order of `leaves`; NamedTuple fields by name.

    Example:
        >>> paths({"b": [1, 2], "a": 3})
        ['a', 'b/0', 'b/1']
    """
    return leaves(_path_tree(tree, ""))


def get(tree: Tree, path: str) -> Any:
    """Returns the leaf or subtree at `path`.

    Raises:
        KeyError: if there is none; the message lists the children that exist.

    Example:
        >>> get({"layers": [{"q": 7}]}, "layers/0/q")
        7
    """
    node = tree
    for part in path.split("/") if path else []:
        children = _children(node)
        if part not in children:
            raise KeyError(
                f"tree.get: no {part!r} in {path!r}; the children here are {', '.join(children) or 'none'}"
            )
        node = children[part]
    return node


def partition(keep: Callable[[str, Any], bool], tree: Tree) -> tuple[Tree, Tree]:
    """Splits a tree into two: the leaves where `keep(path, leaf)` holds, and the others.

    A missing leaf becomes `None`, an empty node, so every function here skips it. Together with `combine`
    it serves freezing, adapters and partial checkpoints.

    Example:
        >>> partition(lambda path, x: x > 1, {"a": 1, "b": 2})
        ({'a': None, 'b': 2}, {'a': 1, 'b': None})
    """
    mask = map_with_path(lambda path, x: bool(keep(path, x)), tree)
    first = optree.tree_map(lambda m, x: x if m else None, mask, tree)
    second = optree.tree_map(lambda m, x: None if m else x, mask, tree)
    return first, second


def combine(first: Tree, second: Tree) -> Tree:
    """Inverts `partition`: takes each leaf from the tree that has it.

    Raises:
        ValueError: if both trees have a leaf at the same path.

    Example:
        >>> combine({"a": None, "b": 2}, {"a": 1, "b": None})
        {'a': 1, 'b': 2}
    """

    def pick(a: Any, b: Any) -> Any:
        if a is not None and b is not None:
            shared = sorted({*paths(first)} & {*paths(second)})
            where = ", ".join(shared[:4]) or "a leaf of the first is a subtree of the second"
            raise ValueError(
                f"tree.combine: both trees have a leaf at the same path ({where}); combine two results of "
                "partition"
            )
        return b if a is None else a

    return optree.tree_map(pick, first, second, none_is_leaf=True)


def select(pattern: Tree, tree: Tree) -> Tree:
    """Selects the leaves of `tree` where `pattern` has a leaf; others become `None`.

    Example:
        >>> select({"a": 0, "b": None}, {"a": 1, "b": 2})
        {'a': 1, 'b': None}
    """
    return optree.tree_map(lambda p, x: None if p is None else x, pattern, tree, none_is_leaf=True)


def stack(trees: list[Tree]) -> Tree:
    """Stacks trees of equal structure leaf by leaf along a new first axis, so that `vmap` can run over them.

    Example:
        >>> stack([{"x": torch.tensor(1)}, {"x": torch.tensor(2)}])
        {'x': tensor([1, 2])}
    """
    return optree.tree_map(lambda *xs: torch.stack(xs), *trees)


def unstack(tree: Tree) -> list[Tree]:
    """Inverts `stack`: one tree per index of the first axis (views, not copies).

    Raises:
        ValueError: if the tree has no leaf, or leaves disagree on the length of their first axis.
    """
    values, spec = flatten(tree)
    sizes = {x.shape[0] for x in values}
    if len(sizes) != 1:
        raise ValueError(
            f"tree.unstack: leaves must share the length of their first axis, got {sorted(sizes)}"
        )
    return [unflatten(spec, list(row)) for row in zip(*(x.unbind(0) for x in values), strict=True)]


def cast(tree: Tree, dtype: torch.dtype) -> Tree:
    """Converts floating-point leaves to `dtype`; integers, booleans and keys pass unchanged."""
    return map(lambda x: x.to(dtype) if x.is_floating_point() else x, tree)


def clone(tree: Tree) -> Tree:
    """Copies every leaf into its own storage."""
    return map(Tensor.clone, tree)


def detach(tree: Tree) -> Tree:
    """Detaches every tensor from its autograd graph (same storage); other leaves pass unchanged."""
    return map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


def zeros_like(tree: Tree, dtype: torch.dtype | None = None) -> Tree:
    """Makes a tree of zeros, of the same shapes and (unless given) dtypes."""
    return map(lambda x: torch.zeros_like(x, dtype=dtype), tree)


def where(condition: Tensor, yes: Tree, no: Tree) -> Tree:
    """Selects one of two trees by a 0-d bool, without a branch, so that it compiles and vmaps."""
    return map(lambda a, b: torch.where(condition, a, b), yes, no)


def norm(tree: Tree) -> Tensor:
    """Returns the Euclidean norm of all leaves together, [] float32, or float64 if a leaf is.

    Example:
        >>> norm({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}).item()
        5.0
    """
    return inner(tree, tree).sqrt()


def inner(a: Tree, b: Tree, dtype: torch.dtype | None = None) -> Tensor:
    """Returns the inner product of two trees of one structure, [] float.

    Args:
        a, b: trees of float tensors.
        dtype: that products are computed and added in; None: float32, or float64 if a leaf of `a` is.

    Example:
        >>> inner({"x": torch.tensor([1.0, 2.0])}, {"x": torch.tensor([3.0, 4.0])}).item()
        11.0
    """
    return leaf_inner(a, b, dtype).sum()


def leaf_inner(a: Tree, b: Tree, dtype: torch.dtype | None = None) -> Tensor:
    """Returns the inner product of each leaf of one tree with that of another, [leaves]; see `inner`.

    Example:
        >>> leaf_inner([torch.ones(2), torch.ones(3)], [torch.ones(2), 2 * torch.ones(3)]).tolist()
        [2.0, 6.0]
    """
    exact = shared_dtype(a) if dtype is None else dtype
    pairs = zip(leaves(a), leaves(b), strict=True)
    return torch.stack([(x.to(exact) * y.to(exact)).sum() for x, y in pairs])


def shared_dtype(tree: Tree) -> torch.dtype:
    """Returns the dtype of scalars that all leaves share: float64 if any leaf is float64, else float32.

    Example:
        >>> shared_dtype({"a": torch.ones(1), "b": torch.ones(1, dtype=torch.float64)})
        torch.float64
    """
    has_float64 = any(x.dtype == torch.float64 for x in leaves(tree))
    return torch.float64 if has_float64 else torch.float32


def count(tree: Tree) -> int:
    """Counts elements over all leaves (tensors or ParamSpecs).

    Example:
        >>> count({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
        8
    """
    return sum(torch.Size(x.shape).numel() for x in leaves(tree))


def nbytes(tree: Tree) -> int:
    """Counts bytes over all leaves (tensors or ParamSpecs)."""
    return sum(torch.Size(x.shape).numel() * x.dtype.itemsize for x in leaves(tree))


def _collect(node: Any, collected: list) -> list:
    """Appends the leaves in JAX's order. (Dynamo cannot trace optree's flattening of empty dicts.)"""
    if isinstance(node, dict):
        for key in _keys(node):
            _collect(node[key], collected)
    elif isinstance(node, list | tuple):
        for child in node:
            _collect(child, collected)
    elif node is not None:
        collected.append(node)
    return collected


def _sorted_map(function: Callable, node: Any) -> Any:
    """`map` that visits leaves in the order of `leaves`. (Dynamo cannot trace optree's.)"""
    if isinstance(node, dict):
        return _dict_type(node)((key, _sorted_map(function, node[key])) for key in _keys(node))
    if hasattr(node, "_fields"):
        return type(node)(*[_sorted_map(function, x) for x in node])
    if isinstance(node, list | tuple):
        return type(node)([_sorted_map(function, x) for x in node])
    return None if node is None else function(node)


def _keys(node: dict) -> list:
    """Sorted keys; those of an OrderedDict in their own order, as in JAX."""
    return list(node) if isinstance(node, OrderedDict) else sorted(node)


def _dict_type(node: dict) -> type[dict]:
    """OrderedDict, whose order is significant, or dict for any other."""
    return OrderedDict if isinstance(node, OrderedDict) else dict


def _path_tree(node: Any, prefix: str) -> Any:
    """Replaces each leaf by its path. (Plain recursion: Dynamo cannot trace optree's paths.)"""
    if node is None:
        return None
    join = f"{prefix}/".lstrip("/")
    if isinstance(node, dict):
        return _dict_type(node)((k, _path_tree(v, f"{join}{k}")) for k, v in node.items())
    if hasattr(node, "_fields"):
        return type(node)(*[_path_tree(v, f"{join}{k}") for k, v in zip(node._fields, node, strict=True)])
    if isinstance(node, list | tuple):
        return type(node)([_path_tree(v, f"{join}{i}") for i, v in enumerate(node)])
    return prefix


def _children(node: Any) -> dict[str, Any]:
    """A node -> {name: child}; a leaf has none."""
    if isinstance(node, dict):
        return {str(k): v for k, v in node.items()}
    if hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return {str(i): v for i, v in enumerate(node)}
    return {}
