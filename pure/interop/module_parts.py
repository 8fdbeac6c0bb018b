"""Parts of a module as functions of a tree of params: the whole, its body, its output layer; new params."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
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
        module: not modified: the body shares all its modules but the output layer and those around it.
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
    body = _without_layer(module, head.split("."))
    layer = modules[head]
    own = {id(x) for x in layer.parameters()}
    paths = tuple(n.replace(".", "/") for n, x in module.named_parameters() if id(x) in own)
    return Parts(bind_module(body, module), bind_module(layer, module), paths)


def nest(values: Mapping[str, Any]) -> Tree:
    """Nests values by the dots in their names: {"a.b": x} -> {"a": {"b": x}}.

    Example:
        >>> nest({"a.b": 1, "a.c.d": 2})
        {'a': {'b': 1, 'c': {'d': 2}}}
    """
    root: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return root


def copy_or_build(
    key: Tensor | None, *, initial: Tree, build: Callable[[Tensor], nn.Module] | None = None
) -> Tree:
    """Takes the parameters of a new module, or copies the initial ones, to the key's device.

    Args:
        key: [2] uint32, or None for copies.
        initial: the params of the first module.
        build: key -> a new module, or None.

    Returns:
        A tree like `initial`.

    Raises:
        ValueError: if the new module has other names or shapes.
    """
    if build is not None and key is not None:
        new = nest({name: x.detach() for name, x in build(key).named_parameters()})
        shapes = [{path: tuple(x.shape) for path, x in _named(t)} for t in (new, initial)]
        if shapes[0] != shapes[1]:
            differing = sorted(dict(shapes[0].items() ^ shapes[1].items()))
            raise ValueError(
                f"from_module: build must return a module with the parameters of the first one; "
                f"{', '.join(differing[:3])} differ"
            )
        initial = new
    return tree.map(lambda x: x.clone() if key is None else x.to(key.device, copy=True), initial)


def _named(values: Tree) -> Iterator[tuple[str, Tensor]]:
    """The leaves with their paths."""
    return zip(tree.paths(values), tree.leaves(values), strict=True)


def _without_layer(module: nn.Module, path: list[str]) -> nn.Module:
    """A shallow copy in which the layer at `path` returns its input. Its weights stay: some models read their
    dtype."""
    new = copy.copy(module)
    if not path:
        new.forward = _pass_through  # type: ignore[assignment]
        return new
    inner = new.get_submodule(path[0])
    new._modules = {**new._modules, path[0]: _without_layer(inner, path[1:])}
    return new


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
