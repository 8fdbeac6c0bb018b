"""Call of a model that takes tokens only with rows that are padded on the left, as rollouts are.

A causal model sees at a position only the tokens up to it. So the padding is moved to the row's end, where no
token of the row sees it, and the results are moved back.

Shape letters: B batch, T tokens, D width of the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pure.transform.modes import has_values


def call_unpadded(
    caller: str,
    call: Callable[[Tensor], Tensor],
    tokens: Tensor,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    *,
    fix: str,
) -> Tensor:
    """Calls a causal model on rows without the padding on their left.

        order = (t + padding tokens of the row) mod T;   result[order] = call(tokens[order])

    Args:
        caller: the caller's name, for messages.
        call: tokens [B, T] -> [B, T, D]; causal, with positions counted from 0.
        tokens: [B, T] integers.
        positions: [B, T], those of `stages.rollout`: 0 on the padding, then 0, 1, 2, ...; None: 0 ... T - 1.
        segment_ids: [B, T], one number on the padding and another after it; None: no padding.
        fix: what to do about packed rows, for the message.

    Returns:
        [B, T, D]; on the padding that of the row's first token alone.

    Edge cases: a document of one token before another is of this form too, and its result is right. Under a
    transform or a compiler, and on a GPU, a row that is not of this form is NaN throughout, so that a stage
    skips the step and reports it.

    Raises:
        ValueError: if a row is packed, or its positions are others; where reading them is free.

    Example:
        >>> tokens, segments = torch.tensor([[9, 1, 2]]), torch.tensor([[0, 1, 1]])
        >>> total = lambda tokens: tokens.cumsum(1)[..., None].float()
        >>> call_unpadded("sum", total, tokens, torch.tensor([[0, 0, 1]]), segments, fix="")[..., 0].tolist()
        [[9.0, 1.0, 3.0]]
    """
    index = torch.arange(tokens.shape[1], device=tokens.device)
    segment_ids = torch.ones_like(tokens) if segment_ids is None else segment_ids
    padding = segment_ids != segment_ids[:, -1:]
    shift = padding.sum(1, keepdim=True)
    own = index - shift
    positions = index if positions is None else positions
    valid = (padding == (own < 0)).all(1) & (positions == own.clamp(min=0)).all(1)
    _check_rows(caller, valid, fix)
    result = call(tokens.gather(1, (index + shift) % len(index)))
    back = (own % len(index))[..., None].expand(-1, -1, result.shape[-1])
    # Not NaN: the weight's gradient of a head adds up all positions, also those with gradient 0.
    result = torch.where(padding[..., None], call(tokens[:, :1]), result.gather(1, back))
    return torch.where(valid[:, None, None], result, torch.nan)


def _check_rows(caller: str, valid: Tensor, fix: str) -> None:
    """Refuses rows that are packed, in eager code on a CPU."""
    if valid.device.type == "cpu" and has_values(valid) and not valid.all():
        raise ValueError(
            f"{caller}: the batch has packed rows or positions of its own, and the module takes no positions "
            f"and segment_ids; {fix}, or a pipe without packing"
        )
