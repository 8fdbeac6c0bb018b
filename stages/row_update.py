"""Optimizers on a state that is cut into rows: initial states and updates, equal to those of the whole state.

An optimizer that acts on each element by itself (`pure.optim.is_elementwise`) updates the rows that a process
holds. Another must see whole leaves: those of one layer at a time, where it is leafwise, and else all.

Shape letters: L layers, n processes.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pure import tree
from pure.optim.leafwise import is_elementwise, is_elementwise_function, is_leafwise, is_leafwise_function
from pure.parallel import rows
from pure.transform.by_layer import Part, layer_name, plan_parts
from pure.types import GradientTransformation, Tree


def init_optimizer(optimizer: GradientTransformation, params: Tree) -> Tree:
    """Return the optimizer's first state; for params that are cut into rows, cut as well.

    Args:
        optimizer: a GradientTransformation.
        params: whole, or cut into rows.

    Returns:
        The state. An elementwise optimizer makes it from a process's rows; a leafwise one from one whole
        layer after the other, with shapes alone in the place of all others; any other one from all leaves.
    """
    if not rows.is_cut(params):
        return optimizer.init(params)
    mesh = rows.group_of_rows(params)
    shapes = rows.shapes_of(params)
    if is_elementwise(optimizer):
        return rows.wrap_rows(optimizer.init(rows.local(params)), optimizer.init(shapes), mesh)
    if not is_leafwise(optimizer):
        return rows.cut(optimizer.init(rows.gather(params)), mesh)
    names = [layer_name(path) for path in tree.paths(params)]
    leaves, spec = tree.flatten(params)
    state_leaves, state_spec = tree.flatten(optimizer.init(shapes))
    for name in dict.fromkeys(names):
        held = rows.gather([x for x, other in zip(leaves, names, strict=True) if other == name])
        mixed, whole = tree.leaves(shapes), iter(held)
        mixed = [next(whole) if other == name else x for x, other in zip(mixed, names, strict=True)]
        made = rows.cut(_drop_shapes(optimizer.init(tree.unflatten(spec, mixed))), mesh)
        state_leaves = [x if new is None else new for x, new in zip(state_leaves, made, strict=True)]
    return tree.unflatten(state_spec, state_leaves)


def update_rows(update: Callable[..., Tree], trained: Tree, grads: Tree, *rest: Any) -> Tree:
    """Return the update of a tree that is cut into rows.

    Args:
        update: (trained, grads, *rest) -> trained, marked as what its optimizer is (`pure.optim.leafwise`).
        trained: trees like the params (the params themselves, moments, averages), cut into rows, and leaves
            [] that all parts share; or a whole tree, for which this is `update`.
        grads: tree like the params, of plain tensors: this process's rows.
        rest: arguments that are the same for all leaves.

    Returns:
        A tree like `trained`, cut as it is.

    Bytes received by a process: none for an elementwise optimizer; (n - 1)/n of `trained` and of the
    gradients for any other.
    """
    if not rows.is_cut(trained):
        return update(trained, grads, *rest)
    by_rows, by_layer = is_elementwise_function(update, True), is_leafwise_function(update, True)
    grads = rows.wrap(grads, trained["params"])
    if not by_layer:
        choose = rows.local if by_rows else rows.gather
        return rows.wrap(rows.own_like(update(choose(trained), choose(grads), *rest), trained), trained)
    leaves, spec = tree.flatten(trained)
    grad_leaves, grads_spec = tree.flatten(grads)
    new_leaves = list(leaves)
    for part in plan_parts(spec, grads_spec):
        olds = [leaves[i] for i in part.own + part.shared]
        part_grads = [grad_leaves[i] for i in part.grads]
        news = _update_part(update, part, by_rows, olds, part_grads, rest)
        for i, x in zip(part.own + part.shared, news, strict=True):
            new_leaves[i] = x
    return tree.unflatten(spec, new_leaves)


def _update_part(
    update: Callable[..., Tree], part: Part, by_rows: bool, olds: list, grads: list, rest: tuple
) -> list:
    """Updates the rows, or the whole leaves, of one layer: its new rows."""
    values, part_grads = (rows.local if by_rows else rows.gather)((olds, grads))
    own = tree.unflatten(part.own_spec, values[: len(part.own)])
    shared = tree.unflatten(part.shared_spec, values[len(part.own) :])
    new = update(tree.combine(own, shared), tree.unflatten(part.grads_spec, part_grads), *rest)
    news = tree.leaves(tree.select(own, new)) + tree.leaves(tree.select(shared, new))
    return rows.wrap(rows.own_like(news, olds), olds)


def _drop_shapes(state: Tree) -> list:
    """The leaves of a state, with None for those without memory."""
    return [None if x.device.type == "meta" else x for x in tree.leaves(state)]
