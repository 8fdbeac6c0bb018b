"""Tensors bound into a function that carry a derivative: by partials, closures, defaults and globals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor


def differentiable_parts(thing: Any) -> list[str]:
    """List the tensors inside a function that are being differentiated, by their paths.

    `remat` gives gradients to a function's arguments only. With this list a caller refuses a function whose
    gradient would be silently incomplete.

    Args:
        thing: a function, partial, tuple, list, dict, dataclass, or any nesting of them.

    Returns:
        Paths of the tensors that require grad or that a transform of torch.func differentiates.

    Edge cases: other objects are not looked into; of globals only tensors, containers and partials are.

    Example:
        >>> rate = torch.tensor(0.1, requires_grad=True)
        >>> differentiable_parts(partial(torch.add, alpha=rate))
        ['alpha']
        >>> differentiable_parts(lambda x: x * rate)
        ['rate']
    """
    found = _find_tensors(thing, "", set())
    return [path for path, x in found if _is_differentiated(x)]


def _is_differentiated(x: Tensor) -> bool:
    """Reports if x requires grad, at any level of torch.func."""
    while True:
        if x.requires_grad or torch._C._functorch.is_gradtrackingtensor(x):
            return True
        if not torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        x = torch._C._functorch.get_unwrapped(x)


def _find_tensors(thing: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yields (path, tensor) of all tensors inside."""
    if isinstance(thing, Tensor):
        yield path, thing
    elif id(thing) not in seen:
        seen.add(id(thing))
        for name, part in _list_parts(thing):
            yield from _find_tensors(part, f"{path}.{name}" if path else name, seen)


def _list_parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name, part) of one object."""
    if isinstance(thing, partial):
        yield from _list_parts(thing.func)
        yield from ((str(i), x) for i, x in enumerate(thing.args))
        yield from thing.keywords.items()
    elif isinstance(thing, FunctionType):
        yield from _list_bound(thing)
    elif isinstance(thing, MethodType):
        yield "self", thing.__self__
    elif isinstance(thing, Mapping):
        yield from ((str(name), x) for name, x in thing.items())
    elif isinstance(thing, tuple) and hasattr(thing, "_fields"):
        yield from zip(thing._fields, thing, strict=True)
    elif isinstance(thing, list | tuple):
        yield from ((str(i), x) for i, x in enumerate(thing))
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        yield from ((field.name, getattr(thing, field.name)) for field in dataclasses.fields(thing))


def _list_bound(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of a function's closure, defaults and globals."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != type(cell)():  # an empty cell: a variable that is not set yet
            yield name, cell.cell_contents
    yield from ((f"default {i}", x) for i, x in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    for name in function.__code__.co_names:
        x = function.__globals__.get(name)
        if isinstance(x, Tensor | partial | list | tuple | dict):
            yield name, x
