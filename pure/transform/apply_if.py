"""A part of a pure function that is computed only when a tensor says so, such as every tenth step.

In plain eager code that is an `if`. Compiled code has no `if` on a value of a tensor, but a conditional
operation; a transform needs `torch.where`, which computes both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.cond import cond_op
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_CONDITIONALS: ContextVar[bool] = ContextVar("traced_conditionals", default=False)

Change = Callable[..., Sequence[Tensor]]
"""(values, *operands) -> new values, of the same shapes and dtypes."""


def apply_if(
    condition: Tensor, change: Change, values: Sequence[Tensor], *operands: Tensor
) -> tuple[Tensor, ...]:
    """Applies a function where a condition holds, and returns the values unchanged where it does not.

    Args:
        condition: [] bool.
        change: pure, (values, *operands) -> new values, each of the old shape and dtype; it closes over no
            tensor.
        values: tensors.
        operands: further tensors that `change` reads.

    Returns:
        The new values, or the old ones.

    Edge cases: under vmap with conditions that differ between members, and in a traced program (such as one
    lowered to JAX), both are computed and one is chosen; if the condition holds for no member nothing is
    computed.

    Example:
        >>> double = lambda values: [2 * x for x in values]
        >>> apply_if(torch.tensor(True), double, [torch.ones(2)])
        (tensor([2., 2.]),)
        >>> torch.func.vmap(lambda c, x: apply_if(c, double, [x]))(torch.tensor([True, False]), torch.ones(2))
        (tensor([2., 1.]),)
    """
    if torch.compiler.is_compiling():
        return _conditional(torch.cond, condition, change, values, operands)
    if get_proxy_mode() is not None and _CONDITIONALS.get():
        return _conditional(cond_op, condition, change, values, operands)
    known = _without_levels(condition)
    if type(known) is Tensor and not torch._C._len_torch_dispatch_stack():
        if not known.any():
            return tuple(values)
        if known.all():
            return tuple(change(values, *operands))
    return tuple(torch.where(condition, x, y) for x, y in zip(change(values, *operands), values, strict=True))


@contextmanager
def conditionals_traced() -> Iterator[None]:
    """Lets `apply_if` put a conditional operation into a traced graph, which is then compiled by torch."""
    token = _CONDITIONALS.set(True)
    try:
        yield
    finally:
        _CONDITIONALS.reset(token)


def _conditional(
    cond: Callable, condition: Tensor, change: Change, values: Sequence[Tensor], operands: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Applies torch's conditional operation, whose branches return new tensors of equal strides."""
    count = len(values)

    def changed(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_new(x) for x in change(tensors[:count], *tensors[count:]))

    def unchanged(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_new(x) for x in tensors[:count])

    return tuple(cond(condition, changed, unchanged, (*values, *operands)))


def _new(x: Tensor) -> Tensor:
    """A contiguous copy."""
    return x.clone(memory_format=torch.contiguous_format)


def _without_levels(x: Tensor) -> Any:
    """The tensor inside the wrappers of vmap, grad and jvp."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x
