"""`value_and_grad`: autograd in plain eager code, torch.func inside transforms and compilers.

Both give equal results. In eager code `torch.func.grad` takes far more memory (each intermediate is wrapped),
while only torch.func composes with `vmap` and compilers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.transform.modes import may_be_differentiated, second_derivatives
from pure.types import Tree

ZERO_IN_INFERENCE_MODE = tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 13)
"""Whether torch.func.grad gives zeros in inference mode, as in torch 2.11."""


def value_and_grad(function: Callable, *, has_aux: bool = False) -> Callable[..., tuple[Any, Tree]]:
    """Returns a function that computes `function` and its gradient with respect to the first argument.

        (f(params, ...), ∂f/∂params)

    Args:
        function: (params, *rest) -> a 0-d float tensor, or (that, aux) with `has_aux`.
        has_aux: the function returns a second result, a tree of tensors.

    Returns:
        (params, *rest) -> (value, grads) or ((value, aux), grads); grads has the structure, shapes and dtypes
        of params.

    Edge cases: a leaf that the value does not depend on has gradient 0. An outer gradient flows through the
    result to everything that it depends on: params, further arguments, and the function's closure.

    Raises:
        ValueError: for a gradient of a gradient through an operation whose second derivative torch does not
            have (fused attention).
        TypeError: on the call, for params with a leaf that is not of a float dtype.

    Example:
        >>> value_and_grad(lambda p: (p["x"] ** 2).sum())({"x": torch.tensor([3.0])})
        (tensor(9.), {'x': tensor([6.])})
    """
    return partial(_value_and_grad, function, has_aux)


def grad(function: Callable, *, has_aux: bool = False) -> Callable:
    """Returns a function that computes the gradient (and aux) only: `value_and_grad` without the value.

    Example:
        >>> grad(lambda p: p.square().sum())(torch.tensor([3.0]))
        tensor([6.])
    """
    return partial(_grad, function, has_aux)


def _grad(function: Callable, has_aux: bool, params: Tree, *rest: Any) -> Any:
    """Computes the gradient only."""
    out, grads = _value_and_grad(function, has_aux, params, *rest)
    return (grads, out[1]) if has_aux else grads


def _value_and_grad(function: Callable, has_aux: bool, params: Tree, *rest: Any) -> Any:
    """Computes value and gradient by torch.func where it is needed, else by autograd."""
    check_floating("grad", params)
    compute = _by_func if may_be_differentiated(params) else _by_autograd
    if torch.compiler.is_compiling():
        return compute(function, has_aux, params, *rest)
    with second_derivatives("grad"):
        return compute(function, has_aux, params, *rest)


def _by_func(function: Callable, has_aux: bool, params: Tree, *rest: Any) -> Any:
    """Computes by torch.func, on lists of leaves: its own pytrees order dicts differently."""
    if ZERO_IN_INFERENCE_MODE and not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            return _by_func(function, has_aux, *(_copy_inference(each) for each in (params, *rest)))
    values, spec = tree.flatten(params)

    def flat(leaves: list[Tensor]) -> Any:
        return function(tree.unflatten(spec, leaves), *rest)

    grads, out = torch.func.grad_and_value(flat, has_aux=has_aux)(values)
    return out, tree.unflatten(spec, grads)


def _copy_inference(arguments: Tree) -> Tree:
    """Copies the tensors that were made in inference mode, which autograd does not take."""
    return tree.map(lambda x: x.clone() if isinstance(x, Tensor) and x.is_inference() else x, arguments)


def _by_autograd(function: Callable, has_aux: bool, params: Tree, *rest: Any) -> Any:
    """Computes by autograd, on leaves that require grad, and detaches the results.

    If the graph reaches another tensor that requires grad (in `rest` or the function's closure), an outer
    autograd differentiates the result, and the computation is repeated by torch.func.
    """
    values, spec = tree.flatten(params)
    has_outer = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in values]
        out = function(tree.unflatten(spec, leaves), *rest)
        if has_outer and reaches_others(tree.leaves(out), leaves):
            return _by_func(function, has_aux, params, *rest)
        value = out[0] if has_aux else out
        if not value.requires_grad:
            return tree.detach(out), tree.map(torch.zeros_like, params)
        grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return tree.detach(out), tree.unflatten(spec, list(grads))


def check_floating(caller: str, params: Tree) -> None:
    """Refuses params with a leaf that has no derivative, such as a TrainState in the place of its params.

    Args:
        caller: the caller's name in an error.
        params: tree of tensors.

    Raises:
        TypeError: naming the leaf.

    Example:
        >>> check_floating("grad", {"step": torch.tensor(3)})
        Traceback (most recent call last):
        TypeError: grad: expected params of float tensors, and leaf 'step' is torch.int64; of a TrainState
            give state.params, and pass integers as further arguments
    """
    if all(x.is_floating_point() or x.is_complex() for x in tree.leaves(params)):
        return
    for path, x in zip(tree.paths(params), tree.leaves(params), strict=True):
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(
                f"{caller}: expected params of float tensors, and leaf {path!r} is {x.dtype}; of a "
                "TrainState give state.params, and pass integers as further arguments"
            )


def reaches_others(outputs: list, leaves: list[Tensor]) -> bool:
    """Reports if the graph of the outputs ends in a tensor that requires grad and is none of the leaves.

    Example:
        >>> x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> reaches_others([x * 2], [x]), reaches_others([x * y], [x])
        (False, True)
    """
    own = {id(x) for x in leaves}
    nodes = [x.grad_fn for x in outputs if isinstance(x, Tensor) and x.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        end = getattr(node, "variable", None)  # of an AccumulateGrad node, at a leaf
        if end is not None and id(end) not in own:
            return True
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        nodes += new
    return False
