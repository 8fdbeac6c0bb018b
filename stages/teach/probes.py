"""Call a learner's function and ours again, with changed numbers and for their gradients.

A call in which both agree says little where the numbers are special: an answer may be made for the numbers
of the example, or forget a term that is small there. So it is repeated in float64, with numbers scaled,
turned, negated and rounded; with large numbers in float16, which only an answer that computes in more
precision gets right; and the gradient of the result is compared. Numbers that ours refuses are skipped. Last,
arguments of a wrong shape or dtype that ours refuses must be refused.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.teach import messages
from stages.teach.calls import describe_error
from stages.teach.files import ROOT
from stages.teach.values import Mismatch, copy_tensor, copy_value, describe_value, find_mismatch, list_tensors

LARGEST = 100_000
"""Numbers in the tensors of a call that is repeated, at most."""

Attempt = Callable[[tuple, dict[str, Any]], Any]
"""Calls a function with arguments, and returns (result, error)."""


def probe_call(
    learner: Attempt, ours: Attempt, args: tuple, kwargs: dict[str, Any], *, spoil: bool = True
) -> tuple[Mismatch, tuple[tuple, dict[str, Any]]] | None:
    """Repeats a call with other numbers, and for its gradient.

    Args:
        learner, ours: the two functions.
        args, kwargs: arguments of the call, which are not changed.
        spoil: False leaves out the arguments of a wrong shape or dtype.

    Returns:
        The first mismatch and the arguments that show it; None if there is none.
    """
    refuse = find_unrefused if spoil else _find_nothing
    tensors = [x for _, x in list_tensors((args, kwargs))]
    if not tensors or sum(x.numel() for x in tensors) > LARGEST:
        return None
    if not any(x.is_floating_point() for x in tensors):
        return refuse(learner, ours, args, kwargs)
    found = compare_gradients(learner, ours, args, kwargs)
    if found is not None:
        return found, (args, kwargs)
    for change, loose in CHANGES:
        changed = partial(copy_value, (args, kwargs), partial(_apply, change))
        expected, error = ours(*changed())
        if error is not None or not _is_finite(expected):
            continue
        result, error = learner(*changed())
        if error is not None:
            message = Mismatch(
                "raises", messages.RAISES, {"function": "it", "error": describe_error(error)}, "", ""
            )
            return message, changed()
        found = find_mismatch(_coarsen(expected), _coarsen(result), messages.RESULT, loose=loose)
        if found is not None:
            shown = find_mismatch(expected, result, messages.RESULT, loose=loose)  # in their own dtypes
            return (shown if shown is not None and shown.kind == found.kind else found), changed()
    small = copy_value((args, kwargs), partial(_apply, lambda x: x.double() * 1e-3))
    found = compare_gradients(learner, ours, *small)  # a clamp of ours may hide it at large numbers
    return (found, small) if found is not None else refuse(learner, ours, args, kwargs)


def find_unrefused(
    learner: Attempt, ours: Attempt, args: tuple, kwargs: dict[str, Any]
) -> tuple[Mismatch, tuple[tuple, dict[str, Any]]] | None:
    """Gives each tensor in turn a wrong shape or dtype; what ours refuses by a `raise`, the learner's must.

    Args:
        learner, ours, args, kwargs: as in `probe_call`.

    Returns:
        The first mismatch and the arguments that show it; None if there is none.
    """
    depths = [name.count("[") + name.count(".") for name, _ in list_tensors((args, kwargs))]
    for place in sorted(range(len(depths)), key=depths.__getitem__)[:SPOILED_TENSORS]:
        for spoil in SPOILED:
            counter = itertools.count()
            change = lambda x: spoil(x) if next(counter) == place else copy_tensor(x)  # noqa: B023, E731
            _, refusal = ours(*copy_value((args, kwargs), change))
            if not is_refusal(refusal):
                continue
            counter = itertools.count()
            changed = copy_value((args, kwargs), change)
            result, error = learner(*copy_value(changed))
            if error is None:
                texts = describe_error(refusal), describe_value(result)
                return Mismatch("raises", messages.RAISES_NOT, {"function": "it"}, *texts), changed
            if not isinstance(error, type(refusal)) and not isinstance(refusal, type(error)):
                texts = describe_error(refusal), describe_error(error)
                return Mismatch("raises", messages.RAISES_OTHER, {"function": "it"}, *texts), changed
    return None


def is_refusal(error: BaseException | None) -> bool:
    """Tells whether an error is a ValueError or TypeError that a `raise` of ours made, not torch's own."""
    if not isinstance(error, ValueError | TypeError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.filename.startswith(OURS) and (last.line or "").startswith("raise ")


OURS = tuple(str(ROOT / name) for name in ("pure", "data_pipes", "stages"))
"""Beginnings of the paths of our source."""

SPOILED_TENSORS = 12
"""Tensors of a call that are spoiled, at most: first those that are arguments themselves."""

SPOILED: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: copy_tensor(x)[None],
    lambda x: x.detach()[1:].clone() if x.dim() else copy_tensor(x),
    lambda x: x.detach().long() if x.is_floating_point() else x.detach().float(),
)
"""A tensor with one more axis, without its first row, of another kind of dtype."""


CHANGES: tuple[tuple[Callable[[Tensor], Tensor], bool], ...] = (
    (lambda x: x.double(), True),
    (lambda x: x.double() * 1e-3, True),
    (lambda x: x.double() * 7.0, True),
    (lambda x: x.double().flip(0) if x.dim() else x.double(), True),
    (lambda x: -x.double(), True),
    (lambda x: x.double().round(), True),
    (lambda x: x * 0.5, True),
    (lambda x: x.bfloat16(), False),
    (lambda x: (x.double() * 200.0).half(), False),
)
"""Changes of floating numbers: in float64, there small, large, turned, negated and rounded; in bfloat16; and
large in float16. Each with True if the dtype of the result may differ from ours."""


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


def _find_nothing(learner: Attempt, ours: Attempt, args: tuple, kwargs: dict[str, Any]) -> None:
    """Stands for `find_unrefused` where arguments are not spoiled."""


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


def _coarsen(result: Any) -> Any:
    """A result with bfloat16 for float16: another order of steps rounds otherwise, but does not overflow."""
    return copy_value(result, lambda x: x.detach().bfloat16() if x.dtype == torch.float16 else copy_tensor(x))


def _is_finite(result: Any) -> bool:
    """Tells whether all numbers of a result are finite."""
    return all(bool(x.isfinite().all()) for _, x in list_tensors(result) if x.is_floating_point())
