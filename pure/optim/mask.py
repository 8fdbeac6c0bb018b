"""Transformations of a part of the tree: masks, and predefined masks by path.

A mask is a tree of bools like the params, or a prefix of it (one bool for a whole sub-tree), or a function
from params to such a tree. Masked leaves are replaced by `MaskedNode()`, an empty node, so that their state
takes no memory.

Prefer functions: they read the names of leaves, so they also fit a single layer, `{"layers": [layer]}`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pure import tree
from pure.optim.leafwise import Check, elementwise, elementwise_only, mark_by_parts
from pure.types import GradientTransformation, Tree

Mask = Tree | Callable[[Tree], Tree]

CONTAINERS = (dict, list, tuple)

NO_DECAY = ("norm", "bias", "embed")
"""Leaves with one of these in their path do not decay in `decay_mask`."""


class MaskedNode(NamedTuple):
    """An empty node in the place of a masked leaf or sub-tree."""


class MaskedState(NamedTuple):
    """The state of the transformation inside a mask."""

    inner_state: Tree


@elementwise
def decay_mask(params: Tree) -> Tree:
    """Masks weight decay: True for all leaves except norms, biases and embeddings.

    Pass it as `adamw(..., mask=decay_mask)`.

    Decay of gains and biases only undoes the scale that a layer learned; embedding rows that a batch does not
    use would shrink without a gradient against it.

    Args:
        params: a tree; only its paths are read. A leaf is exempt if its path contains "norm", "bias" or
            "embed".

    Returns:
        A tree of bools like `params`, True where it decays.

    Example:
        >>> decay_mask({"embedding": 0, "layers": [{"attention_norm": 0, "q": {"weight": 0, "bias": 0}}]})
        {'embedding': False, 'layers': [{'attention_norm': False, 'q': {'weight': True, 'bias': False}}]}
    """
    return match_paths(params, exclude=NO_DECAY)


def path_mask(*include: str, exclude: tuple[str, ...] = ()) -> Callable[[Tree], Tree]:
    """Builds a mask from substrings of paths: True for paths with one of `include` and none of `exclude`.

    Args:
        include: substrings; none means every leaf. A path starts and ends with a slash,
            "/layers/0/attention/q/", so "norm" matches "attention_norm" too, and "/layers/1/" does not match
            layer 10.
        exclude: substrings of paths to leave out.

    Returns:
        A function from params to a tree of bools. `masked` refuses, at init, a substring that no path has.

    Raises:
        TypeError: if a substring is not a string, or exclude is a single string.

    Example:
        >>> path_mask("/attention/", exclude=("bias",))({"attention": {"q": 0, "q_bias": 0}, "head": 0})
        {'attention': {'q': True, 'q_bias': False}, 'head': False}
    """
    if isinstance(exclude, str) or not all(isinstance(x, str) for x in (*include, *exclude)):
        raise TypeError(
            f"path_mask: substrings of paths must be strings, got {include} and exclude={exclude!r}; "
            'write path_mask("attention", exclude=("bias",))'
        )
    mask = partial(match_paths, include=include, exclude=tuple(exclude))
    selects_layers = any(letter.isdigit() for text in (*include, *exclude) for letter in text)
    return elementwise_only(mask) if selects_layers else elementwise(mask)


def match_paths(params: Tree, *, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Tree:
    """Computes the mask that `path_mask` describes."""

    def matches(path: str, _: Any) -> bool:
        path = f"/{path}/"
        if any(text in path for text in exclude):
            return False
        return not include or any(text in path for text in include)

    return tree.map_with_path(matches, params)


def masked(inner: GradientTransformation, mask: Mask) -> GradientTransformation:
    """Applies `inner` to the leaves where the mask is True, and passes the others through unchanged.

    Args:
        inner: the transformation; in its updates, state and params the other leaves are empty nodes.
        mask: a tree of bools, a prefix of one, or a function to one; it is called with params, with updates,
            and with sub-trees of them.

    Returns:
        GradientTransformation with state MaskedState(inner_state).

    Edge cases: a mask without True changes nothing. `grad_norm` is not passed to `inner`: it is the norm of
    all leaves, not of the unmasked ones.

    Raises:
        ValueError: if mask and params have different entries; if no path has a substring of a path_mask (at
            init).
        TypeError: if a leaf of the mask is not a bool.

    Example:
        >>> import torch
        >>> from pure.optim.scale import scale
        >>> opt = masked(scale(10.0), {"a": True, "b": False})
        >>> tree_of_two = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
        >>> opt.update(tree_of_two, opt.init(tree_of_two))[0]
        {'a': tensor(10.), 'b': tensor(1.)}
    """
    update = partial(masked_update, inner=inner, mask=mask)
    return GradientTransformation(
        partial(masked_init, inner=inner, mask=mask),
        mark_by_parts(update, partial(_part_passes, inner, mask)),
    )


def masked_init(params: Tree, *, inner: GradientTransformation, mask: Mask) -> MaskedState:
    """Checks the mask against the params, and initialises `inner` for the unmasked leaves."""
    _check_substrings(mask, params)
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
    """Updates the leaves where the mask is True.

    Args:
        updates: tree of gradients; for a leafwise update, a sub-tree with `None` for missing leaves.
        state: MaskedState.
        params: like updates.
        inner, mask: as in `masked`.
        extra: passed to `inner`, without grad_norm.

    Returns:
        (updates, state).

    Steps:
        1. Evaluate the mask of these updates.
        2. Update by `inner`, with `None` for leaves that are masked or missing, in the state too, so that
           their structures match.
        3. Merge the result and the masked leaves, in updates and state.
    """
    # 1. Mask.
    flags = _flags(mask, updates)
    extra = {k: v for k, v in extra.items() if k != "grad_norm"}
    # 2. Update.
    unmasked = None if params is None else _choose(flags, params, None)
    old = state.inner_state
    inner_updates = _choose(flags, updates, None)
    new, inner_state = inner.update(inner_updates, _masked_nodes_to_none(old), unmasked, **extra)
    # 3. Merge.
    return _choose(flags, new, updates), MaskedState(inner_state=_restore_masked_nodes(old, inner_state))


def _part_passes(inner: GradientTransformation, mask: Mask, check: Check, raw: bool) -> bool:
    """Checks mask and `inner`, the latter without the global norm, which is that of all leaves."""
    return check(mask, raw) and check(inner.update, False)


def _flags(mask: Mask, like: Tree) -> Tree:
    """Evaluates the mask, a tree of bools like `like` or a prefix of it, and checks that it fits."""
    flags = mask(like) if callable(mask) else mask
    _check_fits(flags, like, "")
    return flags


def _choose(flags: Tree, yes: Tree, no: Tree) -> Tree:
    """Selects `yes` where the flags are True, else `no`; None or MaskedNode as `no` means a tree of them."""
    if isinstance(flags, bool):
        return yes if flags else no
    if yes is None or isinstance(yes, MaskedNode):
        return yes
    empty = no is None or isinstance(no, MaskedNode)
    if isinstance(yes, dict):
        return {k: _choose(flags[k], v, no if empty else no[k]) for k, v in yes.items()}
    others = [no] * len(yes) if empty else no
    chosen = [_choose(flag, y, n) for flag, y, n in zip(flags, yes, others, strict=True)]
    return type(yes)(*chosen) if hasattr(yes, "_fields") else type(yes)(chosen)


def _masked_nodes_to_none(state: Tree) -> Tree:
    """Replaces every MaskedNode by None."""
    if isinstance(state, MaskedNode):
        return None
    if isinstance(state, dict):
        return {k: _masked_nodes_to_none(v) for k, v in state.items()}
    if isinstance(state, CONTAINERS):
        parts = [_masked_nodes_to_none(x) for x in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


def _restore_masked_nodes(old: Tree, new: Tree) -> Tree:
    """Puts a MaskedNode into `new` wherever `old` has one."""
    if isinstance(old, MaskedNode):
        return old
    if isinstance(new, dict):
        return {k: _restore_masked_nodes(old[k], v) for k, v in new.items()}
    if isinstance(new, CONTAINERS):
        parts = [_restore_masked_nodes(a, b) for a, b in zip(old, new, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else type(new)(parts)
    return new


def _check_fits(flags: Tree, node: Tree, path: str) -> None:
    """Refuses a mask that is neither a tree like `node` nor a prefix of it."""
    if isinstance(flags, bool) or node is None or isinstance(node, MaskedNode):
        return
    here = path or "the root"
    if not isinstance(node, CONTAINERS) or not isinstance(flags, CONTAINERS):
        raise TypeError(f"masked: the mask must hold bools, got {flags!r} at {here}")
    mask_keys, tree_keys = _keys(flags), _keys(node)
    if mask_keys != tree_keys:
        raise ValueError(
            f"masked: the mask does not fit the tree at {here}: the mask has {_join(mask_keys)}, the tree "
            f"{_join(tree_keys)}; fix the mask, or use one by path, such as decay_mask or path_mask(...)"
        )
    for k in tree_keys:
        _check_fits(flags[k], node[k], f"{path}/{k}".lstrip("/"))


def _keys(node: Any) -> set:
    """Returns the keys of a dict, or the indices of a list or tuple."""
    return set(node) if isinstance(node, dict) else set(range(len(node)))


def _check_substrings(mask: Mask, params: Tree) -> None:
    """Refuses a path_mask with a substring that no path has."""
    if not (isinstance(mask, partial) and mask.func is match_paths):
        return
    paths = [f"/{path}/" for path in tree.paths(params)]
    for text in (*mask.keywords["include"], *mask.keywords["exclude"]):
        if not any(text in path for path in paths):
            more = ", ..." if len(paths) > 8 else ""
            raise ValueError(
                f"path_mask: {text!r} occurs in no path; the paths are {', '.join(paths[:8])}{more}"
            )


def _join(names: set) -> str:
    """Joins sorted names for an error message."""
    return ", ".join(map(str, sorted(names, key=str))) or "nothing"
