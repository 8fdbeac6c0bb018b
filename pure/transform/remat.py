"""Rematerialisation: a function's activations are recomputed in the backward pass instead of saved.

torch's own checkpointing uses hooks that torch.func refuses; this one is an `autograd.Function` that works
under grad and vmap. If forward and backward pass are compiled together, the compiler merges the recomputation
with the original, so `remat` inside a compiled function saves nothing. It does save memory around a compiled
region (`pure.transform.jit.region`, with `jit(..., regions=True)`).

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.parallel import layers  # not the class: `layers` itself imports this package
from pure.transform.modes import is_forward_mode, keeps_activations, may_be_differentiated


def remat(function: Callable) -> Callable:
    """Returns the same function, of which only the inputs are saved for the backward pass.

    A layer's activations are many times its input. Recomputing them takes one more forward pass (about a
    third more time) and saves nearly all of the memory.

    Args:
        function: pure, of positional trees of tensors (None and static values pass), returning a tree of
            tensors. Variables of its closure receive no gradient.

    Returns:
        A function equal to it in value and gradient.

    Edge cases: integer inputs and outputs have no gradient. Randomness must come from keys among the inputs,
    so that both runs draw the same numbers. Inside compiled code, and while a forward-mode derivative is
    computed (a Hessian product by jvp of grad too), it is the function itself, and saves no memory.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> remat(torch.square)(x).backward()
        >>> x.grad
        tensor(6.)

    Source: Chen et al. 2016, section 3.
    """
    return partial(_remat, function)


class _Remat(torch.autograd.Function):
    """Runs `flat(*tensors) -> tuple of tensors`; saves only its inputs. (torch requires a class.)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(flat: Callable, *inputs: Tensor) -> tuple[Tensor, ...]:
        own = {id(x) for x in inputs}  # torch refuses an input that is returned as it is
        return tuple(y.view_as(y) if id(y) in own else y for y in flat(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.flat = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(*(x for x in output if not x.is_floating_point()))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        inputs = ctx.saved_tensors
        float_indices = [i for i, x in enumerate(inputs) if x.is_floating_point()]

        def apply_to_floats(*values: Tensor) -> tuple[Tensor, ...]:
            """Computes the float outputs from the float inputs; the other inputs are constants."""
            full = list(inputs)
            for i, value in zip(float_indices, values, strict=True):
                full[i] = value
            return tuple(y for y in ctx.flat(*full) if y.is_floating_point())

        float_inputs = [inputs[i] for i in float_indices]
        float_cotangents = tuple(c for c in cotangents if c is not None and c.is_floating_point())
        vjp = _vjp_by_func if may_be_differentiated([*inputs, *float_cotangents]) else _vjp_by_autograd
        grads: list[Tensor | None] = [None] * len(inputs)
        for i, g in zip(float_indices, vjp(apply_to_floats, float_inputs, float_cotangents), strict=True):
            grads[i] = g
        return (None, *grads)


def _vjp_by_func(
    function: Callable, inputs: list[Tensor], cotangents: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The cotangents of the inputs from those of the outputs, under a transform or for second derivatives."""
    return torch.func.vjp(function, *inputs)[1](cotangents)


def _vjp_by_autograd(
    function: Callable, inputs: list[Tensor], cotangents: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The same in plain eager code: takes less memory, and regions inside stay compiled.

    An input that no output depends on has None: zeros of its size would be made for nothing.
    """
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        outputs = function(*leaves)
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad]
    if not pairs:
        return (None,) * len(inputs)
    outputs, cotangents = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)


def _remat(function: Callable, *args: Any) -> Any:
    """Flattens the trees, because an autograd.Function sees only its direct arguments."""
    if torch.compiler.is_compiling() or is_forward_mode() or keeps_activations():
        return function(*args)  # a compiler would merge both computations; forward mode saves nothing
    leaves, spec = tree.flatten(args)
    tensor_indices = [i for i, x in enumerate(leaves) if isinstance(x, Tensor | layers.Rows)]
    structures: list = []  # the structure of the output, known only once `flat` has run

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        full = list(leaves)
        for i, x in zip(tensor_indices, tensors, strict=True):
            full[i] = full[i].with_rows(x) if isinstance(full[i], layers.Rows) else x
        outputs, structure = tree.flatten(function(*tree.unflatten(spec, full)))
        structures.append(structure)
        return tuple(outputs)

    tensors = [x.local if isinstance(x, layers.Rows) else x for x in (leaves[i] for i in tensor_indices)]
    outputs = _Remat.apply(flat, *tensors)
    return tree.unflatten(structures[0], list(outputs))
