"""Prepare prompts for `generate`: pad to one tensor and validate.

Shape letters: B rows, P prompt tokens.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pad_prompts(
    prompts: Sequence[Sequence[int]] | Tensor, lengths: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pad prompts on the right with 0.

    Args:
        prompts: lists of ids, or [B, P] integers padded with anything.
        lengths: [B] integers, the lengths of the prompts in a tensor [B, P]; None if all are P long.
        device: of the result.

    Returns:
        (tokens [B, P] int64, lengths [B] int64).

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if a prompt is no list of integers.

    Example:
        >>> [x.tolist() for x in pad_prompts([[1], [2, 3]], None, torch.device("cpu"))]
        [[[1, 0], [2, 3]], [1, 2]]
    """
    if isinstance(prompts, Tensor):
        return _mask_padding(prompts, lengths, device)
    if lengths is not None:
        raise ValueError("generate: lengths belong to prompts given as a tensor [B, P]; lists have their own")
    rows = [_to_ids(row, i) for i, row in enumerate(prompts)]
    tokens = torch.zeros(0, 0, dtype=torch.int64)
    if rows:
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens.to(device), torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device)


def check_inputs(
    tokens: Tensor, lengths: Tensor, key: Any, max_new_tokens: Any, special_ids: Sequence[int], config: Any
) -> None:
    """Refuse prompts that are empty, too long or have ids outside the vocabulary, and invalid settings.

    Args:
        tokens, lengths: from `pad_prompts`.
        key: must be a tensor.
        max_new_tokens: must be an int >= 1.
        special_ids: ids of the stop tokens and of padding; must be in the vocabulary.
        config: the model's.

    Raises:
        ValueError: if a prompt is empty, or with `max_new_tokens` exceeds max_position_embeddings; if an id
            is outside the vocabulary; or if max_new_tokens is below 1.
        TypeError: if key is no tensor, or max_new_tokens or a special id no int.
    """
    if not isinstance(key, Tensor):
        raise TypeError(
            f"generate: key must be a tensor [2] or [B, 2], got {key!r}; make one with pure.random.key"
        )
    if _to_int("max_new_tokens", max_new_tokens) < 1:
        raise ValueError(f"generate: max_new_tokens must be at least 1, got {max_new_tokens}")
    for i in special_ids:
        if not 0 <= _to_int("stop_tokens and pad", i) < config.vocab_size:
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
    if len(lengths) and (longest := int(lengths.max())) + max_new_tokens > config.max_position_embeddings:
        raise ValueError(
            f"generate: {longest} prompt tokens and {max_new_tokens} new ones exceed max_position_embeddings "
            f"{config.max_position_embeddings}; ask for fewer new tokens, shorten the prompt (row "
            f"{int(lengths.argmax())}), or extend the context with rope_scaling"
        )


def _mask_padding(prompts: Tensor, lengths: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Check prompts [B, P] and their lengths, and set the padding to 0."""
    if prompts.ndim != 2:
        raise ValueError(f"generate: prompts must be [B, P] or lists of ids, got {tuple(prompts.shape)}")
    _refuse_fractions(prompts)
    if lengths is None:
        lengths = torch.full((len(prompts),), prompts.shape[1])
    if lengths.shape != (len(prompts),) or bool((lengths > prompts.shape[1]).any()):
        raise ValueError(f"generate: lengths must be [B], at most P = {prompts.shape[1]}, got {lengths}")
    lengths = lengths.to(device, torch.int64)
    inside = torch.arange(prompts.shape[1], device=device) < lengths[:, None]
    return torch.where(inside, prompts.to(device, torch.int64), 0), lengths


def _to_ids(row: Any, number: int) -> Tensor:
    """Convert one prompt to [P] int64."""
    if isinstance(row, str):
        raise TypeError(
            f"generate: prompt {number} is text, {row[:20]!r}; encode it with the model's tokenizer first"
        )
    ids = torch.as_tensor(row)
    if ids.ndim != 1:
        raise ValueError(
            f"generate: prompts must be a list with one list of ids per prompt, got {row!r} for prompt "
            f"{number}; a single prompt is [[1, 2]]"
        )
    if len(ids):  # torch converts an empty list to float32
        _refuse_fractions(ids)
    return ids.to(torch.int64)


def _refuse_fractions(ids: Tensor) -> None:
    """Refuse ids that are no integers."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(
            f"generate: prompts must be integers, ids of tokens, got {ids.dtype}; pass ids, not embeddings"
        )


def _to_int(name: str, value: Any) -> int:
    """Convert the value to an int."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"generate: {name} must be integers, got {value!r}") from None
