"""Prepare prompts for `generate`: pad to one tensor and validate.

Shape letters: B rows, P prompt tokens.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def rows_of(
    prompts: Sequence[Sequence[int]] | Tensor, lengths: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pad prompts on the right with 0.

    Args:
        prompts: lists of ids, or [B, P] integers padded with anything.
        lengths: [B] integers, the true lengths of the latter; None if all are P long.
        device: to put them on.

    Returns:
        (tokens [B, P] int64, lengths [B] int64).

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if a prompt is no list of integers.

    Example:
        >>> [x.tolist() for x in rows_of([[1], [2, 3]], None, torch.device("cpu"))]
        [[[1, 0], [2, 3]], [1, 2]]
    """
    if isinstance(prompts, Tensor):
        return _table(prompts, lengths, device)
    if lengths is not None:
        raise ValueError("generate: lengths belong to prompts given as a tensor [B, P]; lists have their own")
    rows = [_row(row, i) for i, row in enumerate(prompts)]
    tokens = (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if rows
        else torch.zeros(0, 0, dtype=torch.int64)
    )
    return tokens.to(device), torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device)


def check(tokens: Tensor, lengths: Tensor, key: Any, new: Any, ids: Sequence[int], config: Any) -> None:
    """Refuse empty, unknown and overlong prompts, and numbers that are out of range.

    Args:
        tokens, lengths: from `rows_of`.
        key: must be a tensor.
        new: tokens to write, must be an int >= 1.
        ids: further ids that the model must know: those that end a row, and padding.
        config: the model's.

    Raises:
        ValueError: if a prompt is empty, has unknown ids, or is too long for max_position_embeddings with
            `new` more; or another id is unknown, or there is nothing to write.
        TypeError: if key is no tensor, or new or an id no int.
    """
    if not isinstance(key, Tensor):
        raise TypeError(
            f"generate: key must be a tensor [2] or [B, 2], got {key!r}; make one with pure.random.key"
        )
    if _integer("max_new_tokens", new) < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, got {new}")
    for i in ids:
        if not 0 <= _integer("stop_tokens and pad", i) < config.vocab_size:
            raise ValueError(
                f"generate: stop_tokens and pad must be ids in 0 .. {config.vocab_size - 1}, got {i}"
            )
    if bool((lengths < 1).any()):
        row = int((lengths < 1).int().argmax())
        raise ValueError(
            f"generate: prompt {row} is empty; begin it with a token, such as bos_token_id "
            f"({config.bos_token_id})"
        )
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    unknown = inside & ((tokens < 0) | (tokens >= config.vocab_size))
    if bool(unknown.any()):
        raise ValueError(
            f"generate: prompt {int(unknown.any(1).int().argmax())} has the id {int(tokens[unknown][0])}, "
            f"expected ids in 0 .. {config.vocab_size - 1}; was it encoded with this model's tokenizer?"
        )
    if len(lengths) and (longest := int(lengths.max())) + new > config.max_position_embeddings:
        raise ValueError(
            f"generate: {longest} prompt tokens and {new} new ones exceed max_position_embeddings "
            f"{config.max_position_embeddings}; ask for fewer new tokens, shorten the prompt (row "
            f"{int(lengths.argmax())}), or stretch the model with rope_scaling"
        )


def _table(prompts: Tensor, lengths: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts [B, P], with 0 after each one's end."""
    if prompts.ndim != 2:
        raise ValueError(f"generate: prompts must be [B, P] or lists of ids, got {tuple(prompts.shape)}")
    _refuse_fractions(prompts)
    full = torch.full((len(prompts),), prompts.shape[1]) if lengths is None else lengths
    if full.shape != (len(prompts),) or bool((full > prompts.shape[1]).any()):
        raise ValueError(f"generate: lengths must be [B], at most P = {prompts.shape[1]}, got {full}")
    full = full.to(device, torch.int64)
    inside = torch.arange(prompts.shape[1], device=device) < full[:, None]
    return torch.where(inside, prompts.to(device, torch.int64), 0), full


def _row(row: Any, number: int) -> Tensor:
    """One prompt -> [P] int64."""
    if isinstance(row, str):
        raise TypeError(
            f"generate: prompt {number} is text, {row[:20]!r}; encode it with the model's tokenizer first"
        )
    ids = torch.as_tensor(row)
    if ids.ndim != 1:
        raise ValueError(
            f"generate: prompts must be lists of ids, one a prompt, got {row!r} for prompt {number}; a "
            "single prompt is [[1, 2]]"
        )
    if len(ids):  # an empty list is float32 to torch
        _refuse_fractions(ids)
    return ids.to(torch.int64)


def _refuse_fractions(ids: Tensor) -> None:
    """Refuse ids that are no integers."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(
            f"generate: prompts must be integers, ids of tokens, got {ids.dtype}; was that their embedding?"
        )


def _integer(name: str, value: Any) -> int:
    """Return the value as an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"generate: {name} must be integers, got {value!r}") from None
