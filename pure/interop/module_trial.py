"""Trials of a module before it becomes a Model: a row of tokens shows what no signature says.

Shape letters: T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pure import tree
from pure.interop.module_parts import Parts
from pure.types import Hidden, Tree

LENGTH = 8
"""Tokens of the row."""

LOUDER = 64
"""Factor of the output layer's weights with which it is tried again: a bound on the logits then shows."""


def check_logits(module: nn.Module, forward: Hidden, params: Tree, vocabulary: int, longest: int) -> None:
    """Checks the logits of two rows that differ in their last token, and of two documents in one row.

    Args:
        module: for its name in errors.
        forward: (params, tokens) -> logits.
        params: the module's initial ones; nothing is checked for those on the device "meta".
        vocabulary: V.
        longest: longest row.

    Raises:
        ValueError: if the module cannot be called so; if the logits are not floats [2, T, V], or those before
            the last token differ; if `forward` takes packed rows, and a document changes with the one before.
    """
    if not _can_run(params):
        return
    rows = torch.cat([_row(params, vocabulary, longest)] * 2)
    rows[1, -1] = (rows[1, -1] + 1) % vocabulary
    name, shape = type(module).__name__, [*rows.shape, vocabulary]
    logits = _call(name, forward, params, rows)
    if not isinstance(logits, Tensor) or list(logits.shape) != shape or not logits.is_floating_point():
        got = f"{logits.dtype} {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"from_module: for tokens {shape[:2]} {name} must return logits {shape}, as floats, got {got}; "
            "check vocab_size, or give a `forward` that returns them"
        )
    if _distance(logits[0, :-1], logits[1, :-1]) > _tolerance(logits):
        raise ValueError(
            f"from_module: {name} is not causal: the logits before the last token change with it; give "
            "its attention a causal mask"
        )
    _check_documents(name, forward, params, rows[:1])


def is_same_function(
    whole: Hidden,
    composed: Hidden,
    parts: Parts,
    params: Tree,
    vocabulary: int,
    longest: int,
    *,
    required: bool,
) -> bool:
    """Reports if output layer after body is the whole module: nothing else follows the layer.

    Args:
        whole: (params, tokens) -> logits, of the module.
        composed: the same, of body and output layer.
        parts: names the leaves of the output layer, which is tried with louder weights too.
        params: the module's initial ones; those on the device "meta" cannot be tried: False.
        vocabulary, longest: V, and the longest row.
        required: raise instead of returning False.

    Returns:
        Whether both agree within rounding.

    Raises:
        ValueError: if they differ and `required` is set.
    """
    same = _can_run(params)
    for factor in (1, LOUDER) if same else ():
        scaled = tree.map_with_path(lambda path, x, f=factor: x * f if path in parts.head else x, params)
        row = _row(params, vocabulary, longest)
        with torch.no_grad():
            first, second = whole(scaled, row), composed(scaled, row)
        same = same and first.shape == second.shape and _distance(first, second) <= _tolerance(first)
    if required and not same:
        raise ValueError(
            "from_module: the logits are not the result of the output layer `head`: something follows it, or "
            "the module could not be run; leave `head` out"
        )
    return same


def result_width(hidden: Hidden, params: Tree, vocabulary: int) -> int:
    """Returns D, the width of what `hidden` returns; V if the params cannot be run."""
    if not _can_run(params):
        return vocabulary
    with torch.no_grad():
        return hidden(params, _row(params, vocabulary, 1)).shape[-1]


def _call(name: str, forward: Hidden, params: Tree, rows: Tensor) -> Tensor:
    """Calls the module, and says what to do if it fails."""
    try:
        with torch.no_grad():
            return forward(params, rows)
    except (RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"from_module: {name} fails on tokens {list(rows.shape)} as `forward` calls it ({first[:160]}); "
            "a recurrent model of transformers takes the default, not hugging_face"
        ) from error


def _check_documents(name: str, forward: Hidden, params: Tree, row: Tensor) -> None:
    """Compares the second document of a packed row with the same alone, if `forward` takes packed rows."""
    length, half = row.shape[1], row.shape[1] // 2
    index = torch.arange(length, device=row.device)
    second = (index >= half).long()
    positions, segments = (index - half * second)[None], second[None]
    try:
        with torch.no_grad():
            packed = forward(params, row, positions=positions, segment_ids=segments)[:, half:]
    except ValueError:  # refused, as by the default
        return
    if packed.isnan().all():  # the default's refusal on a GPU
        return
    alone = _call(name, forward, params, row[:, half:])
    if _distance(alone, packed) > _tolerance(alone):
        raise ValueError(
            f"from_module: in a packed row a document of {name} changes with the document before it, or is "
            "counted on from it: `forward` does not pass positions and segment_ids on, or the module is "
            "recurrent; give the default forward, or one that raises a ValueError for them"
        )


def _row(params: Tree, vocabulary: int, longest: int) -> Tensor:
    """Tokens [1, T], on the device of the params."""
    device = tree.leaves(params)[0].device
    return (torch.arange(min(LENGTH, longest), device=device) % vocabulary)[None]


def _can_run(params: Tree) -> bool:
    """Reports if all params have values."""
    return not any(x.is_meta for x in tree.leaves(params))


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude; infinite for NaN, 0 for no numbers."""
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    distance = float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
    return distance if distance == distance else float("inf")


def _tolerance(x: Tensor) -> float:
    """Rounding in the dtype of x."""
    return max(1e-4, 8 * torch.finfo(x.dtype).eps)
