"""A linen module as pure functions of its params."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import core, linen

from pure.interop.jax.flax_calls import FlaxModule, check_structure, params_of


def bind_linen(module: linen.Module, variables: Any | None, trial: Callable[..., Any]) -> FlaxModule:
    """Takes a linen module apart.

    Args:
        module: unbound, as its constructor returns it.
        variables: params, or {"params": params} as `module.init` returns; None initialises them from a key.
        trial: (module, tokens [1, 2], train=False) -> logits; a call of every part of the module.

    Returns:
        FlaxModule.

    Raises:
        ValueError: if the module has collections other than "params", or the params are not those of the
            module.
    """
    init = partial(_init, module=module, trial=trial)
    expected = jax.eval_shape(init, jax.random.key(0))
    _check_collections(module, expected)
    shapes = core.unfreeze(linen.meta.unbox(expected)).get("params", {})
    apply = partial(_apply, module=module)
    draws = _needs_key(apply, shapes, partial(trial, train=True))
    if variables is None:
        return FlaxModule(None, shapes, partial(_init_params, init=init), apply, draws)
    variables = linen.meta.unbox(variables)
    if "params" in variables and "params" not in shapes:
        _check_collections(module, variables)
        variables = variables["params"]
    params = params_of(variables, "")
    check_structure(shapes, params)
    return FlaxModule(params, shapes, None, apply, draws)


def _check_collections(module: linen.Module, variables: Mapping[str, Any]) -> None:
    """Refuses collections that a forward pass would change."""
    others = sorted(name for name in variables if name != "params" and jax.tree.leaves(variables[name]))
    if others:
        raise ValueError(
            f"from_flax: {type(module).__name__} has the collection {others[0]!r}, which changes during "
            "training and is no parameter; a Model is a function of its params only, so replace its layer "
            "(BatchNorm by LayerNorm, a cache by none)"
        )


def _needs_key(apply: Callable[..., Any], shapes: Any, trial: Callable[..., Any]) -> bool:
    """Reports if the module draws random numbers while it trains."""
    try:
        jax.eval_shape(lambda params: apply(params, None, trial, jnp.zeros((1, 2), jnp.int32)), shapes)
    except flax.errors.InvalidRngError:
        return True
    return False


def _init(key: Any, *, module: linen.Module, trial: Callable[..., Any]) -> Any:
    """All variables of the module."""
    params_key, dropout_key = jax.random.split(key)
    return module.init(
        {"params": params_key, "dropout": dropout_key}, jnp.zeros((1, 2), jnp.int32), method=trial
    )


def _init_params(key: Any, *, init: Callable[..., Any]) -> Any:
    """Params from a key."""
    return core.unfreeze(linen.meta.unbox(init(key)))["params"]


def _apply(params: Any, key: Any | None, method: Callable[..., Any], *args: Any, module: linen.Module) -> Any:
    """Runs `method(module, *args)` with these params."""
    rngs = {} if key is None else {"dropout": key}
    return module.apply({"params": params}, *args, method=method, rngs=rngs)
