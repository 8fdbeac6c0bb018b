"""An nnx module as pure functions of its params. The user's module is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pure.interop.jax.flax_calls import FlaxModule, check_structure, leaves_by_path, params_of


class Parts(NamedTuple):
    """An nnx module without its params.

    Fields:
        evaluating, training: the module's structure in the two modes.
        params: ((path, variable), ...), in nnx's own keys.
        rngs: ((path, variable), ...), keys and counts of its random streams.
    """

    evaluating: Any
    training: Any
    params: tuple[tuple[tuple[str | int, ...], Any], ...]
    rngs: tuple[tuple[tuple[str | int, ...], Any], ...]


def bind_nnx(module: nnx.Module, params: Any | None) -> FlaxModule:
    """Takes an nnx module apart.

    Args:
        module: an nnx module.
        params: nnx.State or nested dicts, with integer or string keys; None takes the module's own.

    Returns:
        FlaxModule. Keys of lists, integers in nnx, are strings: "layers/0/kernel".

    Raises:
        ValueError: if the module has variables that are neither parameters nor random streams, or the params
            are not those of the module.
    """
    parts = _take_apart(module)
    own = nest({path: variable.get_value() for path, variable in parts.params})
    if params is None:
        params = own
    elif isinstance(params, nnx.State):
        params = nnx.to_pure_dict(params)
    given = params_of(params, "")
    check_structure(own, given)
    return FlaxModule(given, own, None, partial(_apply, parts=parts), bool(parts.rngs))


def nest(values: Mapping[tuple[str | int, ...], Any]) -> Any:
    """Nests values by paths whose parts become strings: {("layers", 0): x} -> {"layers": {"0": x}}.

    Raises:
        ValueError: if two paths become the same.
    """
    root: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = map(str, path)
        node = root
        for name in parents:
            node = node.setdefault(name, {})
        if last in node:
            raise ValueError(f"from_flax: the module has two parameters at {'/'.join(map(str, path))}")
        node[last] = value
    return root


def state_of(params: Any, like: Any) -> Any:
    """Makes an nnx.State of params, with nnx's own keys.

    Args:
        params: nested dicts with string keys of arrays.
        like: pairs of path and variable.

    Returns:
        nnx.State, for `nnx.merge` and `nnx.update`.
    """
    values = leaves_by_path(params)
    return nnx.from_flat_state(
        [(path, variable.replace(values["/".join(map(str, path))])) for path, variable in like]
    )


def _take_apart(module: nnx.Module) -> Parts:
    """Splits a copy of the module in both modes."""
    module = nnx.clone(module)
    module.train()
    training: Any = nnx.graphdef(module)
    module.eval()
    evaluating: Any = nnx.graphdef(module)
    params, rngs, others = nnx.state(module, nnx.Param, nnx.RngState, ...)
    for path, variable in _pairs(others):
        raise ValueError(
            f"from_flax: {type(module).__name__} has the {type(variable).__name__} "
            f"{'/'.join(map(str, path))}, which changes during training and is no parameter; a Model is a "
            "function of its params only, so replace its layer (BatchNorm by LayerNorm, a cache by none)"
        )
    return Parts(evaluating, training, _pairs(params), _pairs(rngs))


def _pairs(state: Any) -> tuple[tuple[tuple[str | int, ...], Any], ...]:
    """Lists the variables of a state with their paths."""
    flat: Any = nnx.to_flat_state(state)
    return tuple((path, variable) for path, variable in flat)


def _apply(params: Any, key: Any | None, method: Any, *args: Any, parts: Parts) -> Any:
    """Runs `method(module, *args)` with these params."""
    structure = parts.evaluating if key is None else parts.training
    module = nnx.merge(structure, state_of(params, parts.params), _random_state(key, parts.rngs))
    return method(module, *args)


def _random_state(key: Any | None, rngs: Any) -> Any:
    """State of the random streams: a key of its own for each, and counts of 0; None keeps the module's."""
    state = []
    for number, (path, variable) in enumerate(rngs):
        value = variable.get_value()
        if key is not None and isinstance(variable, nnx.RngKey):
            value = jax.random.split(jax.random.fold_in(key, number), value.shape)
        elif key is not None:
            value = jnp.zeros(value.shape, jnp.uint32)
        state.append((path, variable.replace(value)))
    return nnx.from_flat_state(state)
