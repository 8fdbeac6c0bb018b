"""`pure.interop.token_cache`: decoding without a KV cache, by recomputing the tokens so far."""

from __future__ import annotations

from typing import Any

import torch

from pure.interop.token_cache import decode_again, empty_cache


def running_sum(params: Any, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
    """The simplest causal model: [B, T, 2], the sum of the tokens so far and its negative."""
    total = tokens.cumsum(1)[..., None].float()
    return torch.cat([total, -total], -1)


def test_tokens_decoded_in_parts_give_the_logits_of_the_whole_row() -> None:
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    cache = empty_cache(2, 6)
    first, cache = decode_again({}, tokens[:, :3], cache, forward=running_sum)
    assert torch.equal(first, running_sum({}, tokens)[:, :3])
    second, after = decode_again({}, tokens[:, 3:], cache, last=True, forward=running_sum)
    assert second[..., 0].tolist() == [[10], [26]]
    assert after.length.tolist() == [4, 4]
    chosen, _ = decode_again(
        {}, tokens[:, :3], empty_cache(2, 6), last=torch.tensor([0, 2]), forward=running_sum
    )
    assert chosen[..., 0].tolist() == [[1], [18]]
