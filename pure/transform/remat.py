"""Rematerialisation: forget what happens inside a function, and compute it again for the gradient.

torch's own checkpointing rests on hooks that torch.func refuses; this one is an `autograd.Function` that works under
grad, vmap and compile.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree


def remat(function: Callable) -> Callable:
    """Returns the same function, of which the backward pass keeps only the inputs.

    A layer's inner activations are many times its input. Forgetting them costs one more forward pass (about a third
    more time) and saves nearly all of the memory.

    Args:
        function: pure, of positional trees of tensors (None and static values pass), giving a tree of tensors. What it
            closes over receives no gradient.

    Returns:
        A function equal to it in value and gradient.

    Edge cases: integer inputs and outputs carry no gradient. Randomness must come from keys among the inputs, which
    then gives the same draw twice.

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> remat(torch.square)(x).backward()
        >>> x.grad
        tensor(6.)

    Source: Chen et al. 2016, section 3.
    """
    return partial(_remat, function)


class _Remat(torch.autograd.Function):
    """Runs `flat(*tensors) -> tuple of tensors`; saves only its inputs. (A class, because torch asks for one.)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(flat: Callable, *inputs: Tensor) -> tuple[Tensor, ...]:
        return flat(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.flat = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.mark_non_differentiable(*(x for x in output if not x.is_floating_point()))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        inputs = ctx.saved_tensors
        moving = [i for i, x in enumerate(inputs) if x.is_floating_point()]

        def floats_only(*values: Tensor) -> tuple[Tensor, ...]:
            full = list(inputs)
            for i, value in zip(moving, values, strict=True):
                full[i] = value
            return tuple(y for y in ctx.flat(*full) if y.is_floating_point())

        outputs, pull, *_ = torch.func.vjp(floats_only, *(inputs[i] for i in moving))
        given = [c for c in cotangents if c is not None and c.is_floating_point()][: len(outputs)]
        grads: list[Tensor | None] = [None] * len(inputs)
        for i, g in zip(moving, pull(tuple(given)), strict=True):
            grads[i] = g
        return (None, *grads)


def _remat(function: Callable, *args: Any) -> Any:
    """Flattens the trees, because an autograd.Function sees only its direct arguments."""
    leaves, spec = tree.flatten(args)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    inputs = [leaves[i] for i in places]

    def call(*tensors: Tensor) -> Any:
        full = list(leaves)
        for i, x in zip(places, tensors, strict=True):
            full[i] = x
        return function(*tree.unflatten(spec, full))

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree.leaves(call(*tensors)))

    if torch.compiler.is_compiling():
        # A compiler refuses a function that writes down its result's structure, but throws away a result not used.
        return tree.unflatten(tree.structure(call(*inputs)), list(_Remat.apply(flat, *inputs)))
    structures: list = []

    def noting(*tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, structure = tree.flatten(call(*tensors))
        structures.append(structure)
        return tuple(outputs)

    outputs = _Remat.apply(noting, *inputs)
    return tree.unflatten(structures[0], list(outputs))
