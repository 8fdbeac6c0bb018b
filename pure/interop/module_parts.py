"""A module as functions of a tree of params: the whole, or its body and its output layer apart."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pure import tree
from pure.types import Logits, Tree


class Parts(NamedTuple):
    """A module without its output layer, and that layer.

    Fields:
        body: (params, *args, **options) -> what the module returns, with hidden states for logits.
        logits: (params, hidden) -> logits.
        head: paths of the output layer's leaves.
    """

    body: Callable[..., Any]
    logits: Logits
    head: tuple[str, ...]


def bind_module(module: nn.Module, owner: nn.Module | None = None) -> Callable[..., Any]:
    """Returns (params, *args, **options) -> what the module returns, computed with these params.

    Args:
        module: the module, or a part that shares its parameters with `owner`.
        owner: the module whose names the params have; None: the module itself.

    Returns:
        A function. Buffers are bound as they are now.
    """
    paths = {id(x): name.replace(".", "/") for name, x in (owner or module).named_parameters()}
    names = {name: paths[id(x)] for name, x in module.named_parameters()}
    buffers = {name: x.detach().clone() for name, x in module.named_buffers()}
    return partial(_call, module=module, names=names, buffers=buffers)


def split_head(module: nn.Module, head: str | None) -> Parts | None:
    """Splits a module into its body and its output layer.

    Args:
        module: not modified: the body is a copy that shares its parameters.
        head: name of the output layer; None takes the one that `module.get_output_embeddings()` returns.

    Returns:
        Parts, or None where no output layer is named.

    Raises:
        ValueError: if there is no submodule `head`.
    """
    modules = dict(module.named_modules())
    if head is None:
        layer = getattr(module, "get_output_embeddings", lambda: None)()
        head = next((name for name, part in modules.items() if part is layer), None)
        if not head:
            return None
    elif not head or head not in modules:
        linear = [name for name, part in modules.items() if isinstance(part, nn.Linear)]
        raise ValueError(
            f"from_module: {type(module).__name__} has no submodule {head!r}; its linear layers are "
            f"{', '.join(linear[-4:]) or 'none'}"
        )
    shared = {id(x): x for x in (*module.parameters(), *module.buffers())}
    body = copy.deepcopy(module, shared)
    # Its weights stay: transformers' Mamba reads their dtype.
    body.get_submodule(head).forward = _pass_through  # type: ignore[assignment]
    layer = modules[head]
    own = {id(x) for x in layer.parameters()}
    paths = tuple(n.replace(".", "/") for n, x in module.named_parameters() if id(x) in own)
    return Parts(bind_module(body, module), bind_module(layer, module), paths)


def _pass_through(x: Any, *args: Any, **options: Any) -> Any:
    """Returns the input: the forward pass of an output layer that is left out."""
    return x


def _call(
    params: Tree,
    *args: Any,
    module: nn.Module,
    names: Mapping[str, str],
    buffers: Mapping[str, Tensor],
    **options: Any,
) -> Any:
    """Runs the module with these params."""
    values = {name: tree.get(params, path) for name, path in names.items()}
    return torch.func.functional_call(module, (values, dict(buffers)), args, options)
