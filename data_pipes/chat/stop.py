"""Stop strings: end a completion during generation, and truncate its text.

Shape letters: B rows, M new tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from data_pipes.tokenizer.spec import Tokenizer


def stop_at(tokenizer: Tokenizer, strings: Sequence[str]) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the `stop` argument of `pure.generation.generate.generate`.

    A string of n bytes spans n tokens at most, so only the last n tokens of a row are decoded.

    Args:
        tokenizer: the model's tokenizer.
        strings: stop strings, each of which ends a row; none may be empty.

    Returns:
        (tokens [B, M] int64, lengths [B] int64) -> [B] bool, True for rows whose end has a stop string.

    Raises:
        ValueError: if a string is empty, since every text contains it.
    """
    if "" in strings:
        raise ValueError("stop_at: a stop string is empty, and every text contains it; leave it out")
    tail_length = max((len(text.encode()) for text in strings), default=0)
    return partial(_has_stop, tokenizer=tokenizer, strings=tuple(strings), tail_length=tail_length)


def truncate_at_stop(text: str, strings: Sequence[str]) -> str:
    """Returns the text before the first occurrence of any of the strings.

    Example:
        >>> truncate_at_stop("    return 1\\n\\ndef other(): pass", ["\\nclass", "\\ndef"])
        '    return 1\\n'
    """
    places = [place for place in map(text.find, strings) if place >= 0]
    return text[: min(places, default=len(text))]


def _has_stop(
    tokens: Tensor, lengths: Tensor, *, tokenizer: Tokenizer, strings: tuple[str, ...], tail_length: int
) -> Tensor:
    """Marks the rows whose last `tail_length` tokens contain a stop string."""
    rows = zip(tokens.tolist(), lengths.tolist(), strict=True)
    tails = [tokenizer.decode(row[max(0, n - tail_length) : n]) for row, n in rows]
    return torch.tensor([any(text in tail for text in strings) for tail in tails], device=tokens.device)
