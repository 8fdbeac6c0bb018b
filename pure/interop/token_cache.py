"""The cache of a model without a KV cache: the tokens, from which every step recomputes the rows.

Shape letters: B batch, T tokens, V vocabulary, S positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure.types import Hidden, Tree


class TokenCache(NamedTuple):
    """The tokens of each row so far.

    Fields:
        tokens: [B, S] int64.
        length: [B] int64, filled positions of each row.
    """

    tokens: Tensor
    length: Tensor


def empty_cache(
    batch: int, length: int, dtype: torch.dtype = torch.float32, device: Any = "cpu"
) -> TokenCache:
    """Makes an empty cache, as `Model.cache` does.

    Args:
        batch: B.
        length: S.
        dtype: not used: tokens are int64.
        device: of the cache.

    Returns:
        TokenCache.
    """
    tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
    return TokenCache(tokens, torch.zeros(batch, dtype=torch.int64, device=device))


def decode_again(
    params: Tree, tokens: Tensor, cache: TokenCache, *, last: bool | Tensor = False, forward: Hidden
) -> tuple[Tensor, TokenCache]:
    """Writes the tokens after those in the cache, and recomputes the rows, as `Model.decode` does.

    Args:
        params: of the model.
        tokens: [B, T] integers.
        cache: TokenCache.
        last: True for the last position only, or [B] positions, one a row.
        forward: (params, tokens [B, S]) -> logits [B, S, V].

    Returns:
        (logits [B, T, V], or [B, 1, V] with `last`; cache).
    """
    positions = cache.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    rows = cache.tokens.scatter(1, positions, tokens.long())
    all_logits = forward(params, rows)
    if isinstance(last, Tensor):
        positions = positions.gather(1, last[:, None])
    elif last:
        positions = positions[:, -1:]
    logits = all_logits.gather(1, positions[..., None].expand(-1, -1, all_logits.shape[-1]))
    return logits, TokenCache(rows, cache.length + tokens.shape[1])
