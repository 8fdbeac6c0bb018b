"""Collectives inside a model, with their derivatives: f and g of tensor parallelism, and gathers.

Each pair is conjugate: the derivative of one is the other. All processes of a group must call them in the
same order, and hold equal values where an argument is called replicated. They work under autograd, torch.func
(grad, vmap, jvp) and compilers.

Shape letters: n processes.

Shoeybi et al., "Megatron-LM", 2019, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pure.parallel.group import Group
from pure.transform.graph_node import graph_node

_OPS = torch.ops._c10d_functional
"""torch's collectives as operations that return a new tensor: those that a compiler can trace."""


def copy_to_group(x: Tensor, group: Group | None) -> Tensor:
    """Pass a replicated value into a computation of which each process does a part (Megatron's f).

        y_r = x,     ∂x = Σ_r ∂y_r

    Args:
        x: [...] float, equal on all processes.
        group: the processes; None: this one only.

    Returns:
        [...], equal to x; its gradient is summed over the processes.

    Example:
        >>> copy_to_group(torch.ones(2), None)
        tensor([1., 1.])

    Source: Shoeybi et al. 2019, section 3, "f".
    """
    return x if group is None or group.size == 1 else _copy(x, group.handle.group_name)


def sum_over_group(x: Tensor, group: Group | None) -> Tensor:
    """Sum the parts of a computation: the result is replicated (Megatron's g).

        y = Σ_r x_r,     ∂x_r = ∂y

    Args:
        x: [...] float, of the same shape on all processes.
        group: the processes; None: this one only.

    Returns:
        [...], the same bits on all processes.

    Example:
        >>> sum_over_group(torch.ones(2), None)
        tensor([1., 1.])

    Source: Shoeybi et al. 2019, section 3, "g".
    """
    return x if group is None or group.size == 1 else _sum(x, group.handle.group_name)


def gather_over_group(x: Tensor, group: Group | None, dim: int) -> Tensor:
    """Concatenate the parts of all processes along one axis, for a computation of which each does a part.

        y = (x_0, ..., x_{n-1}),     ∂x_r = part r of Σ_s ∂y_s      (a reduce-scatter)

    Args:
        x: [...] of the same shape on all processes.
        group: the processes; None: this one only.
        dim: the axis.

    Returns:
        [...], n times as long along `dim`.

    Example:
        >>> gather_over_group(torch.ones(2), None, 0)
        tensor([1., 1.])
    """
    if group is None or group.size == 1:
        return x
    return _gather(x.movedim(dim, 0), group.handle.group_name, group.size).movedim(0, dim)


def join_over_group(x: Tensor, group: Group | None, dim: int) -> Tensor:
    """Concatenate the parts of all processes along one axis: the result is replicated.

        y = (x_0, ..., x_{n-1}),     ∂x_r = part r of ∂y

    Args:
        x: [...] of the same shape on all processes.
        group: the processes; None: this one only.
        dim: the axis.

    Returns:
        [...], n times as long along `dim`; all processes must go on to compute the same from it.

    Example:
        >>> join_over_group(torch.ones(2), None, 0)
        tensor([1., 1.])
    """
    if group is None or group.size == 1:
        return x
    return _join(x.movedim(dim, 0), group.handle.group_name, group.size, group.rank).movedim(0, dim)


def maximum_over_group(x: Tensor, group: Group | None) -> Tensor:
    """Take the largest of the processes' values, elementwise, without gradient.

    Args:
        x: [...], of the same shape on all processes.
        group: the processes; None: this one only.

    Returns:
        [...], the same bits on all processes.

    Example:
        >>> maximum_over_group(torch.ones(2), None)
        tensor([1., 1.])
    """
    return x.detach() if group is None or group.size == 1 else _maximum(x.detach(), group.handle.group_name)


class _Copy(torch.autograd.Function):
    """f: identity forward, sum backward."""

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Sum.apply(dy, ctx.name), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str) -> tuple[Tensor, int]:
        return _Copy.apply(x, name), in_dims[0]

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return dx.view_as(dx)


class _Sum(torch.autograd.Function):
    """g: sum forward, identity backward."""

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return _wait(_OPS.all_reduce(x.contiguous(), "sum", name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Copy.apply(dy, ctx.name), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str) -> tuple[Tensor, int]:
        return _Sum.apply(x, name), in_dims[0]

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return _Sum.apply(dx, ctx.name)


class _Gather(torch.autograd.Function):
    """All-gather along the first axis forward, reduce-scatter backward."""

    @staticmethod
    def forward(x: Tensor, name: str, size: int) -> Tensor:
        return _wait(_OPS.all_gather_into_tensor(x.contiguous(), size, name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name, ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Scatter.apply(dy, ctx.name, ctx.size), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str, size: int) -> tuple[Tensor, int]:
        return _Gather.apply(x.movedim(in_dims[0], -1), name, size), x.ndim - 1

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        return _Gather.apply(dx, ctx.name, ctx.size)


class _Scatter(torch.autograd.Function):
    """Reduce-scatter along the first axis forward, all-gather backward."""

    @staticmethod
    def forward(x: Tensor, name: str, size: int) -> Tensor:
        return _wait(_OPS.reduce_scatter_tensor(x.contiguous(), "sum", size, name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.name, ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Gather.apply(dy, ctx.name, ctx.size), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str, size: int) -> tuple[Tensor, int]:
        return _Scatter.apply(x.movedim(in_dims[0], -1), name, size), x.ndim - 1

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        return _Scatter.apply(dx, ctx.name, ctx.size)


class _Join(torch.autograd.Function):
    """All-gather along the first axis forward, own part backward."""

    @staticmethod
    def forward(x: Tensor, name: str, size: int, rank: int) -> Tensor:
        return _wait(_OPS.all_gather_into_tensor(x.contiguous(), size, name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.static = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Part.apply(dy, *ctx.static), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, *static: Any) -> tuple[Tensor, int]:
        return _Join.apply(x.movedim(in_dims[0], -1), *static), x.ndim - 1

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        return _Join.apply(dx, *ctx.static)


class _Part(torch.autograd.Function):
    """Own part along the first axis of a replicated value forward, all-gather backward."""

    @staticmethod
    def forward(x: Tensor, name: str, size: int, rank: int) -> Tensor:
        return x.chunk(size)[rank].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.static = inputs[1:]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return _Join.apply(dy, *ctx.static), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, *static: Any) -> tuple[Tensor, int]:
        return _Part.apply(x.movedim(in_dims[0], -1), *static), x.ndim - 1

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        return _Part.apply(dx, *ctx.static)


class _Maximum(torch.autograd.Function):
    """The maximum, without derivative."""

    @staticmethod
    def forward(x: Tensor, name: str) -> Tensor:
        return _wait(_OPS.all_reduce(x.contiguous(), "max", name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, name: str) -> tuple[Tensor, int]:
        return _Maximum.apply(x, name), in_dims[0]

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        return torch.zeros_like(dx)


@graph_node
def _copy(x: Tensor, name: str) -> Tensor:
    """Applies `_Copy` as one node of a compiler's graph, which cannot trace a Function with a jvp."""
    return _Copy.apply(x, name)


@graph_node
def _sum(x: Tensor, name: str) -> Tensor:
    """Applies `_Sum` as one node."""
    return _Sum.apply(x, name)


@graph_node
def _gather(x: Tensor, name: str, size: int) -> Tensor:
    """Applies `_Gather` as one node."""
    return _Gather.apply(x, name, size)


@graph_node
def _join(x: Tensor, name: str, size: int, rank: int) -> Tensor:
    """Applies `_Join` as one node."""
    return _Join.apply(x, name, size, rank)


@graph_node
def _maximum(x: Tensor, name: str) -> Tensor:
    """Applies `_Maximum` as one node."""
    return _Maximum.apply(x, name)


def _wait(x: Tensor) -> Tensor:
    """Waits for a collective's result, as an operation in the graph."""
    return _OPS.wait_tensor(x)
