"""Transformations for a part of the tree: masks, and ready masks by path.

A mask is a tree of bools like the params, or a prefix of it (one bool for a whole sub-tree), or a function
from params to such a tree. Masked-out places hold `MaskedNode()`, an empty node, so that no memory is spent
on their state.

Prefer functions: they go by the names of leaves, hence also fit a single layer, `{"layers": [layer]}`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pure import tree
from pure.types import GradientTransformation, Tree

Mask = Tree | Callable[[Tree], Tree]

CONTAINERS = (dict, list, tuple)

NO_DECAY = ("norm", "bias", "embed")
"""Leaves with one of these in their path do not decay in `decay_mask`."""


class MaskedNode(NamedTuple):
    """Stands where a mask has taken a leaf or sub-tree away: a node without leaves."""


class MaskedState(NamedTuple):
    """The state of the transformation inside a mask."""

    inner_state: Tree


def decay_mask(params: Tree) -> Tree:
    """Says which leaves should decay: all but norms, biases and embeddings. Pass it as `adamw(...,
    mask=decay_mask)`.

    Gains and biases are few, and pulling them to zero only takes away what the layer learned of its scale;
    rows of an embedding that a batch does not use would shrink without any gradient to answer.

    Args:
        params: a tree; only its paths are read. A leaf is exempt if "norm", "bias" or "embed" occurs anywhere
            in its path.

    Returns:
        A tree of bools like `params`, True where it decays.

    Example:
        >>> decay_mask({"embedding": 0, "layers": [{"attention_norm": 0, "q": {"weight": 0, "bias": 0}}]})
        {'embedding': False, 'layers': [{'attention_norm': False, 'q': {'weight': True, 'bias': False}}]}
    """
    return match_paths(params, exclude=NO_DECAY)


def path_mask(*include: str, exclude: tuple[str, ...] = ()) -> Callable[[Tree], Tree]:
    """Makes a mask from pieces of paths: True where a piece of `include` occurs and none of `exclude` does.

    Args:
        include: pieces of paths; none means every leaf. A path is written with a slash before and behind,
            "/layers/0/attention/q/", so "norm" finds "attention_norm" too, and "/layers/1/" does not find
            layer 10.
        exclude: pieces of paths to leave out.

    Returns:
        A function from params to a tree of bools. `masked` refuses, at init, a piece that occurs in no path.

    Raises:
        TypeError: if a piece is not a string, or exclude is a single string.

    Example:
        >>> path_mask("/attention/", exclude=("bias",))({"attention": {"q": 0, "q_bias": 0}, "head": 0})
        {'attention': {'q': True, 'q_bias': False}, 'head': False}
    """
    if isinstance(exclude, str) or not all(isinstance(x, str) for x in (*include, *exclude)):
        raise TypeError(
            f"path_mask: pieces of paths must be strings, got {include} and exclude={exclude!r}; "
            'write path_mask("attention", exclude=("bias",))'
        )
    return partial(match_paths, include=include, exclude=tuple(exclude))


def match_paths(params: Tree, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Tree:
    """Computes the mask that `path_mask` describes."""

    def matches(path: str, _: Any) -> bool:
        whole = f"/{path}/"
        return (not include or any(x in whole for x in include)) and not any(x in whole for x in exclude)

    return tree.map_with_path(matches, params)


def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Applies `inner` to the leaves that the mask keeps, and passes the others through unchanged.

    Args:
        inner: the transformation; it sees empty nodes in the other places, in updates, state and params
            alike.
        mask: a tree of bools, a prefix of one, or a function from params (and updates, and parts of them) to
            one.

    Returns:
        GradientTransformation with state MaskedState(inner_state).

    Edge cases: a mask that keeps nothing leaves all updates as they are. `grad_norm` is not handed to
    `inner`: it is not the norm of a part.

    Raises:
        ValueError: if the mask names a place that the params do not have, or the other way round; if a piece
            of a path_mask occurs in no path (at init).
        TypeError: if a leaf of the mask is not a bool.

    Example:
        >>> import torch
        >>> from pure.optim.scale import scale
        >>> opt = masked(scale(10.0), {"a": True, "b": False})
        >>> tree_of_two = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
        >>> opt.update(tree_of_two, opt.init(tree_of_two))[0]
        {'a': tensor(10.), 'b': tensor(1.)}
    """
    return GradientTransformation(
        partial(masked_init, inner=inner, mask=mask), partial(masked_update, inner=inner, mask=mask)
    )


def masked_init(params: Tree, *, inner: GradientTransformation, mask: Mask) -> MaskedState:
    """Checks the mask against the params, and starts `inner` on what it keeps."""
    _check_pieces(mask, params)
    return MaskedState(inner_state=inner.init(_choose(_flags(mask, params), params, MaskedNode())))


def masked_update(
    updates: Tree,
    state: MaskedState,
    params: Tree | None = None,
    *,
    inner: GradientTransformation,
    mask: Mask,
    **extra: Any,
) -> tuple[Tree, MaskedState]:
    """Updates what the mask keeps.

    Args:
        updates: tree of gradients; a part of one has `None` where leaves are missing.
        state: MaskedState.
        params: like updates.
        inner, mask: as in `masked`.
        extra: handed to `inner`, but for grad_norm.

    Returns:
        (updates, state).

    Steps:
        1. The mask of these updates.
        2. `inner`, with `None` for all that is masked out or missing. (So a part of the tree fits its part of
           the state.)
        3. Put together what came out and what was passed over, in updates and in the state.
    """
    # 1. Flags.
    flags = _flags(mask, updates)
    extra = {k: v for k, v in extra.items() if k != "grad_norm"}
    # 2. The part.
    part = None if params is None else _choose(flags, params, None)
    old = state.inner_state
    new, inner_state = inner.update(_choose(flags, updates, None), _without_nodes(old), part, **extra)
    # 3. The whole.
    return _choose(flags, new, updates), MaskedState(inner_state=_with_nodes(old, inner_state))


def _flags(mask: Mask, like: Tree) -> Tree:
    """The tree of bools (or prefix) that belongs to `like`, checked."""
    flags = mask(like) if callable(mask) else mask
    _check_fits(flags, like, "")
    return flags


def _choose(flags: Tree, yes: Tree, no: Tree) -> Tree:
    """`yes` where the flags are True, `no` elsewhere; None or a MaskedNode for `no` stands for all below
    it."""
    if isinstance(flags, bool):
        return yes if flags else no
    if yes is None or isinstance(yes, MaskedNode):
        return yes
    empty = no is None or isinstance(no, MaskedNode)
    if isinstance(yes, dict):
        return {k: _choose(flags[k], v, no if empty else no[k]) for k, v in yes.items()}
    chosen = [_choose(f, y, no if empty else no[i]) for i, (f, y) in enumerate(zip(flags, yes, strict=True))]
    return type(yes)(*chosen) if hasattr(yes, "_fields") else type(yes)(chosen)


def _without_nodes(state: Tree) -> Tree:
    """The state with None for every MaskedNode."""
    if isinstance(state, MaskedNode):
        return None
    if isinstance(state, dict):
        return {k: _without_nodes(v) for k, v in state.items()}
    if isinstance(state, CONTAINERS):
        parts = [_without_nodes(x) for x in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


def _with_nodes(old: Tree, new: Tree) -> Tree:
    """`new` with a MaskedNode wherever `old` has one."""
    if isinstance(old, MaskedNode):
        return old
    if isinstance(new, dict):
        return {k: _with_nodes(old[k], v) for k, v in new.items()}
    if isinstance(new, CONTAINERS):
        parts = [_with_nodes(a, b) for a, b in zip(old, new, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)
    return new


def _check_fits(flags: Tree, node: Tree, path: str) -> None:
    """Refuses a mask that is neither a tree like `node` nor a prefix of it."""
    if isinstance(flags, bool) or node is None or isinstance(node, MaskedNode):
        return
    here = path or "the root"
    if not isinstance(node, CONTAINERS):
        raise TypeError(f"masked: the mask must hold bools, got {flags!r} at {here}")
    has = (
        set(flags)
        if isinstance(flags, dict)
        else set(range(len(flags)))
        if isinstance(flags, CONTAINERS)
        else None
    )
    wants = set(node) if isinstance(node, dict) else set(range(len(node)))
    if has is None:
        raise TypeError(f"masked: the mask must hold bools, got {flags!r} at {here}")
    if has != wants:
        raise ValueError(
            f"masked: the mask does not fit the tree at {here}: the mask has {_list(has)}, the tree {_list(wants)}; "
            "mend the mask, or use one by path, such as decay_mask or path_mask(...)"
        )
    for k in wants:
        _check_fits(flags[k], node[k], f"{path}/{k}".lstrip("/"))


def _check_pieces(mask: Mask, params: Tree) -> None:
    """Refuses a piece of a path_mask that occurs in no path."""
    if not (isinstance(mask, partial) and mask.func is match_paths):
        return
    paths = [f"/{path}/" for path in tree.paths(params)]
    for piece in (*mask.keywords["include"], *mask.keywords["exclude"]):
        if not any(piece in path for path in paths):
            raise ValueError(
                f"path_mask: {piece!r} occurs in no path; the paths are {', '.join(paths[:8])}"
                f"{', ...' if len(paths) > 8 else ''}"
            )


def _list(names: set) -> str:
    """Names in order, for a message."""
    return ", ".join(map(str, sorted(names, key=str))) or "nothing"
