"""Call a learner's function and ours again, with changed numbers and for their gradients.

A call in which both agree says little where the numbers are special: an answer may be made for the numbers
of the example, or forget a term that is small there. So it is repeated in float64, with numbers scaled,
turned and negated; and the gradient of the result is compared. Numbers that ours refuses are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.teach import messages
from stages.teach.values import Mismatch, copy_tensor, copy_value, find_mismatch, list_tensors

LARGEST = 100_000
"""Numbers in the tensors of a call that is repeated, at most."""

Attempt = Callable[[tuple, dict[str, Any]], Any]
"""Calls a function with arguments, and returns (result, error)."""


def probe_call(
    learner: Attempt, ours: Attempt, args: tuple, kwargs: dict[str, Any]
) -> tuple[Mismatch, tuple[tuple, dict[str, Any]]] | None:
    """Repeats a call with other numbers, and for its gradient.

    Args:
        learner, ours: the two functions.
        args, kwargs: arguments of the call, which are not changed.

    Returns:
        The first mismatch and the arguments that show it; None if there is none.
    """
    tensors = [x for _, x in list_tensors((args, kwargs))]
    if not any(x.is_floating_point() for x in tensors) or sum(x.numel() for x in tensors) > LARGEST:
        return None
    found = compare_gradients(learner, ours, args, kwargs)
    if found is not None:
        return found, (args, kwargs)
    for changed, loose in change_numbers(args, kwargs):
        expected, error = ours(*copy_value(changed))
        if error is not None or not _is_finite(expected):
            continue
        result, error = learner(*copy_value(changed))
        if error is not None:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            message = Mismatch("raises", messages.RAISES, {"function": "it", "error": text}, "", "")
            return message, changed
        found = find_mismatch(expected, result, messages.RESULT, loose=loose)
        if found is not None:
            return found, changed
    return None


def change_numbers(
    args: tuple, kwargs: dict[str, Any]
) -> Iterator[tuple[tuple[tuple, dict[str, Any]], bool]]:
    """Yields the arguments with other floating numbers: float64, small, large, turned, negated, bfloat16.

    Args:
        args, kwargs: of a call.

    Returns:
        An iterator over (arguments, True if the dtype of the result may differ from ours).
    """
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.double(),
        lambda x: x.double() * 1e-3,
        lambda x: x.double() * 7.0,
        lambda x: x.double().flip(0) if x.dim() else x.double(),
        lambda x: -x.double(),
        lambda x: x * 0.5,
        lambda x: x.bfloat16(),
    )
    for index, change in enumerate(changes):
        changed = copy_value((args, kwargs), partial(_apply, change))
        yield changed, index < len(changes) - 1


def compare_gradients(
    learner: Attempt, ours: Attempt, args: tuple, kwargs: dict[str, Any]
) -> Mismatch | None:
    """Compares the gradients of a weighted sum of the results with respect to all floating arguments.

    Args:
        learner, ours, args, kwargs: as in `probe_call`.

    Returns:
        The first mismatch of results or gradients; None if there is none.
    """
    gradients = []
    results = []
    for function in (ours, learner):
        copied = copy_value((args, kwargs), _require_gradient)
        with torch.enable_grad():
            result, error = function(*copied)
        if error is not None:
            return None
        results.append(result)
        gradients.append(differentiate(result, copied))
        if gradients[0] is None:
            break
    if len(results) == 2:
        found = find_mismatch(results[0], results[1], messages.RESULT)
        if found is not None:
            return found
    if gradients[0] is None or gradients[1] is None:
        return None
    for (place, mine), (_, theirs) in zip(gradients[0], gradients[1], strict=True):
        found = find_mismatch(mine, theirs, place, loose=True)
        if found is not None:
            return found._replace(kind="gradient", message=messages.GRADIENT, fields={"place": place})
    return None


def differentiate(result: Any, arguments: Any) -> list[tuple[str, Tensor]] | None:
    """Differentiates a weighted sum of the tensors of a result.

    Returns:
        The gradient with respect to each floating tensor of the arguments, with its place; zeros for those
        that the result does not depend on; None if the result carries no gradient.
    """
    outputs = [x for _, x in list_tensors(result) if x.requires_grad and x.is_floating_point()]
    inputs = list({id(x): (place, x) for place, x in list_tensors(arguments) if x.requires_grad}.values())
    if not outputs or not inputs:
        return None
    total = sum(((x.double() * _weights(x)).sum() for x in outputs), torch.zeros((), dtype=torch.float64))
    if not total.requires_grad:
        return None
    try:
        found = torch.autograd.grad(total, [x for _, x in inputs], allow_unused=True)
    except RuntimeError:  # a result that can be differentiated only once, or not at all
        return None
    return [
        (place, torch.zeros_like(x) if gradient is None else gradient)
        for (place, x), gradient in zip(inputs, found, strict=True)
    ]


def _weights(x: Tensor) -> Tensor:
    """Fixed weights for the numbers of a tensor, no two alike."""
    return (torch.arange(x.numel(), dtype=torch.float64, device=x.device) * 0.7 + 1.0).cos().reshape(x.shape)


def _require_gradient(x: Tensor) -> Tensor:
    """A copy of a tensor with respect to which one can differentiate, if it is floating."""
    return copy_tensor(x).requires_grad_(x.is_floating_point())


def _apply(change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A copy of a tensor, changed if it is floating."""
    copied = copy_tensor(x)
    if not x.is_floating_point():
        return copied
    return change(copied.detach()).clone().requires_grad_(x.requires_grad)


def _is_finite(result: Any) -> bool:
    """Tells whether all numbers of a result are finite."""
    return all(bool(x.isfinite().all()) for _, x in list_tensors(result) if x.is_floating_point())
