"""Marks for torch's compiler that do not import it: its import takes a second of every program's start."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable)


def graph_node(function: F) -> F:
    """Returns the same function, which torch.compile takes as one node of its graph without tracing it.

    `torch.compiler.allow_in_graph`, called when a call is first traced, not when a module is imported.

    Args:
        function: of tensors and constants, returning tensors; defined at the top of a module, and called with
            positional arguments only.

    Example:
        >>> graph_node(torch.square)(torch.tensor(3.0))
        tensor(9.)
    """

    @constant
    def allow() -> bool:
        torch.compiler.allow_in_graph(function)
        return True

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            allow()
        return function(*args)

    return call  # type: ignore[return-value]


def constant(function: F) -> F:
    """Returns the same function, which torch.compile calls as it traces; the result is a constant.

    `torch.compiler.assume_constant_result` without the import of the compiler: it sets this attribute only.

    Args:
        function: of constants.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
