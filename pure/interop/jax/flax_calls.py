"""The call of a Flax module: tokens to logits, or to hidden states; and the module as functions of its
params.

Shape letters: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor

from pure.interop.jax.arrays import to_jax

TRAINING = ("train", "training", "is_training")
"""Arguments of a module that are True while it trains; `deterministic` is their opposite."""


@runtime_checkable
class Call(Protocol):
    """Calls a Flax module: (module, tokens [B, T] int32) -> logits [B, T, V], or hidden states [B, T, D].

    `module` is a linen module bound to its params, or an nnx module. `positions` and `segment_ids` are [B, T]
    int32 or None; `train` is True where dropout draws.
    """

    def __call__(
        self,
        module: Any,
        tokens: Any,
        /,
        *,
        positions: Any | None,
        segment_ids: Any | None,
        train: bool,
    ) -> Any: ...


@runtime_checkable
class Head(Protocol):
    """Computes logits [..., V] from hidden states [..., D] with a module: (module, hidden) -> logits."""

    def __call__(self, module: Any, hidden: Any, /) -> Any: ...


class Apply(Protocol):
    """Runs a function of a module: `method(module, *args)` with these params, and dropout from the key."""

    def __call__(self, params: Any, key: Any | None, method: Callable[..., Any], *args: Any) -> Any: ...


class FlaxModule(NamedTuple):
    """A Flax module as pure functions of JAX arrays.

    Fields:
        initial: params, nested dicts with string keys of arrays; or None, where `init` makes them.
        shapes: the same tree of shapes and dtypes.
        init: key -> params.
        apply: (params, key or None, method, *args) -> method(module, *args).
        draws: True if the module draws random numbers when it is given a key.
    """

    initial: Any | None
    shapes: Any
    init: Callable[[Any], Any] | None
    apply: Apply
    draws: bool


def call_by_signature(
    module: Any,
    tokens: Any,
    /,
    *,
    positions: Any | None,
    segment_ids: Any | None,
    train: bool,
) -> Any:
    """Calls a module with the arguments that its `__call__` names: the default Call.

    `positions` and `segment_ids` are passed under these names; `train`, `training`, `is_training` and
    `deterministic` are set.

    Args:
        module: bound linen module, or nnx module.
        tokens: [B, T] int32.
        positions, segment_ids: [B, T] int32, or None.
        train: True where dropout draws.

    Returns:
        Logits [B, T, V]: the result, or its `.logits`.

    """
    names = inspect.signature(type(module).__call__).parameters
    given = {"positions": positions, "segment_ids": segment_ids}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if "deterministic" in names:
        options["deterministic"] = not train
    options |= {name: train for name in TRAINING if name in names}
    output = module(tokens, **options)
    return getattr(output, "logits", output)


def takes_positions_and_segments(module: Any) -> bool:
    """Reports if the module's `__call__` names both `positions` and `segment_ids`."""
    return {"positions", "segment_ids"} <= inspect.signature(type(module).__call__).parameters.keys()


def params_of(tree: Any, where: str) -> Any:
    """Converts params to nested dicts of JAX arrays with string keys.

    Args:
        tree: nested mappings of JAX arrays, NumPy arrays or tensors; integer keys become strings.
        where: path of the tree, for messages.

    Returns:
        Nested dicts of JAX arrays.

    Raises:
        TypeError: for an abstract leaf (a shape without numbers), or one that is no float array.
        ValueError: for two keys that become the same string.
    """
    if isinstance(tree, Mapping):
        names = [str(name) for name in tree]
        if len(set(names)) < len(names):
            raise ValueError(f"from_flax: {where or 'params'} has a key both as an integer and as a string")
        return {
            name: params_of(tree[key], f"{where}/{name}".lstrip("/"))
            for name, key in zip(names, tree, strict=True)
        }
    if isinstance(tree, jax.ShapeDtypeStruct):
        raise TypeError(
            f"from_flax: params {where} is abstract, a shape {list(tree.shape)} without numbers; give the "
            "arrays that module.init (linen) or the constructor (nnx) makes, or read them from a checkpoint"
        )
    if not isinstance(tree, jax.Array | np.ndarray | Tensor):
        raise TypeError(
            f"from_flax: params {where} is a {type(tree).__name__}; expected nested dicts of JAX arrays, "
            "NumPy arrays or tensors"
        )
    array = to_jax(tree.detach() if isinstance(tree, Tensor) else tree)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"from_flax: params {where} is {array.dtype}; only floats can be trained")
    return array


def check_structure(shapes: Any, params: Any) -> None:
    """Checks params against the shapes that the module expects.

    Raises:
        ValueError: naming the first leaf that is missing, unknown or of another shape.
    """
    wanted, given = leaves_by_path(shapes), leaves_by_path(params)
    for path in sorted({*wanted, *given}):
        if path not in given:
            raise ValueError(f"from_flax: params lack {path}, {list(wanted[path].shape)}")
        if path not in wanted:
            raise ValueError(f"from_flax: params have {path}, which the module does not use; remove it")
        if wanted[path].shape != given[path].shape:
            raise ValueError(
                f"from_flax: {path}: expected {list(wanted[path].shape)}, got {list(given[path].shape)}; "
                "are the params those of this module?"
            )


def leaves_by_path(tree: Any, path: str = "") -> dict[str, Any]:
    """Lists the leaves of nested dicts: {"a": {"b": x}} -> {"a/b": x}."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        name: x for key in tree for name, x in leaves_by_path(tree[key], f"{path}/{key}".lstrip("/")).items()
    }
