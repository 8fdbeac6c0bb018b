"""Detection of the modes of torch that a function may run in: forward-mode derivatives, tracing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pure import tree
from pure.types import Tree

_ACTIVATIONS_KEPT: ContextVar[bool] = ContextVar("activations_kept", default=False)


@contextmanager
def activations_kept() -> Iterator[None]:
    """Turns off what recomputes activations (`remat`, the chunks of a loss) inside a `with` statement.

    Recordings of a forward pass (`pure.transform.book_keeping`) see each operation once.

    Example:
        >>> with activations_kept():
        ...     print(keeps_activations())
        True
    """
    token = _ACTIVATIONS_KEPT.set(True)
    try:
        yield
    finally:
        _ACTIVATIONS_KEPT.reset(token)


def keeps_activations() -> bool:
    """Reports if activations must be kept; see `activations_kept`."""
    return not torch.compiler.is_compiling() and _ACTIVATIONS_KEPT.get()


def is_forward_mode() -> bool:
    """Reports if a forward-mode derivative is being computed.

    Tangents are carried by `torch.func.jvp`, `jacfwd`, `hessian` and `linearize`, and by the dual numbers of
    `torch.autograd.forward_ad`; all of them enter a level of dual numbers. An `autograd.Function` without a
    `jvp` refuses them. Ours (remat, flash attention, the product with NF4) save memory in the backward pass;
    in forward mode nothing is saved, so the plain function is differentiated in their place.

    Example:
        >>> is_forward_mode()
        False
        >>> torch.func.jvp(lambda x: x * is_forward_mode(), (torch.ones(1),), (torch.ones(1),))
        (tensor([1.]), tensor([1.]))
    """
    return forward_ad._current_level >= 0


def may_be_differentiated(values: Tree) -> bool:
    """Reports if what is computed from these values may be differentiated: in plain code of a step it is not.

    Under a compiler or tracer, whose program may be differentiated later, it is assumed. A gradient inside is
    then one of torch.func: autograd cuts its result off by `detach`, tangents of dual numbers too. So is one
    under `torch.inference_mode`, where autograd records nothing: its gradients would be 0.

    Example:
        >>> x = torch.ones(2)
        >>> may_be_differentiated(x), may_be_differentiated({"x": x.requires_grad_()})
        (False, True)
    """
    return (
        is_traced()
        or torch.is_inference_mode_enabled()
        or is_forward_mode()
        or (torch.is_grad_enabled() and any(x.requires_grad for x in tree.leaves(values)))
    )


def is_traced() -> bool:
    """Reports if a compiler, tracer or transform of torch.func sees the operations, and not torch alone.

    Example:
        >>> is_traced(), torch.func.vmap(lambda x: x * is_traced())(torch.ones(1))
        (False, tensor([1.]))
    """
    return (
        torch.compiler.is_compiling()
        or get_proxy_mode() is not None
        or torch._C._are_functorch_transforms_active()
    )


def has_values(values: Tree) -> bool:
    """Reports if the numbers of tensors can be read: not while a compiler, tracer or transform runs.

    Example:
        >>> has_values(torch.ones(2))
        True
        >>> torch.func.vmap(lambda x: x * has_values(x))(torch.ones(2))
        tensor([0., 0.])
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not torch._C._len_torch_dispatch_stack() and all(type(x) is Tensor for x in tree.leaves(values))


@contextmanager
def second_derivatives(caller: str) -> Iterator[None]:
    """Replaces torch's error for an operation without a second derivative by one that says what to change.

    Args:
        caller: the caller's name in the message.

    Raises:
        ValueError: in the place of torch's "derivative for aten::... is not implemented".

    Example:
        >>> with second_derivatives("hvp"):
        ...     raise RuntimeError("derivative for aten::fused_backward is not implemented")
        Traceback (most recent call last):
        ValueError: hvp: torch has no second derivative of aten::fused_backward; build a model with fused
            attention (backend 'sdpa', and 'auto' on a GPU) with backend='naive' or 'flash', one of
            transformers with attn_implementation='eager', also for the run that is studied
    """
    try:
        yield
    except RuntimeError as error:
        missing = re.search(r"derivative for (\S+) is not implemented", str(error))
        if missing is None:
            raise
        raise ValueError(
            f"{caller}: torch has no second derivative of {missing[1]}; build a model with fused attention "
            "(backend 'sdpa', and 'auto' on a GPU) with backend='naive' or 'flash', one of transformers with "
            "attn_implementation='eager', also for the run that is studied"
        ) from error
