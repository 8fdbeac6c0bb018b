"""Values without derivatives: a frozen reference, log-probabilities of the policy that sampled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pure import tree


def frozen(function: Callable) -> Callable:
    """Returns a function of the same value, whose results carry no derivative in either mode.

    `torch.no_grad` alone stops reverse mode, while the tangents of forward mode pass through it: `jvp` and
    `grad` of one function would disagree.

    Args:
        function: any function that returns a tree of tensors.

    Returns:
        A function of the same arguments.

    Example:
        >>> square = frozen(torch.square)
        >>> torch.func.grad(lambda x: x * square(x))(torch.tensor(3.0))
        tensor(9.)
        >>> torch.func.jvp(lambda x: x * square(x), (torch.tensor(3.0),), (torch.tensor(1.0),))[1]
        tensor(9.)
    """
    return partial(_frozen, function)


def _frozen(function: Callable, *args: Any, **options: Any) -> Any:
    """Calls without a graph, and detaches the results."""
    with torch.no_grad():
        return tree.detach(function(*args, **options))
