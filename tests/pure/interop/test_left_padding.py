"""Rows padded on the left, through a model that takes tokens only."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from pure.interop import left_padding

call_unpadded = partial(left_padding.call_unpadded, fix="give a forward")


def running_sum(tokens: torch.Tensor) -> torch.Tensor:
    """[B, T] -> [B, T, 1], the sum of the tokens so far."""
    return tokens.cumsum(1)[..., None].float()


def test_padding_is_not_seen() -> None:
    tokens = torch.tensor([[9, 9, 1, 2], [3, 4, 5, 6], [9, 9, 9, 7]])
    starts = torch.tensor([[2], [0], [3]])
    positions = (torch.arange(4) - starts).clamp(min=0)
    segments = (torch.arange(4) >= starts).long()
    found = call_unpadded("test", running_sum, tokens, positions, segments)[..., 0]
    wanted = torch.tensor([[9.0, 9, 1, 3], [3, 7, 12, 18], [9, 9, 9, 7]])
    torch.testing.assert_close(found, wanted)
    assert torch.equal(call_unpadded("test", running_sum, tokens, None, None), running_sum(tokens))
    each = torch.func.vmap(lambda *row: call_unpadded("test", running_sum, *(x[None] for x in row))[0])
    torch.testing.assert_close(each(tokens, positions, segments)[..., 0], wanted)


@pytest.mark.parametrize(
    ("positions", "segments"),
    [
        ([[0, 1, 0, 1]], [[0, 0, 1, 1]]),  # packed
        ([[0, 1, 2, 3]], [[0, 0, 1, 1]]),  # padded, but counted over the padding
        ([[5, 6, 7, 8]], None),
        (None, [[0, 1, 0, 1]]),
    ],
)
def test_other_rows_are_refused_or_nan(positions: Any, segments: Any) -> None:
    tokens = torch.tensor([[1, 2, 3, 4]])
    given = [None if x is None else torch.tensor(x) for x in (positions, segments)]
    with pytest.raises(ValueError, match="test: the batch has packed rows or positions of its own"):
        call_unpadded("test", running_sum, tokens, *given)
    each = torch.func.vmap(lambda row: call_unpadded("test", running_sum, row[None], *given)[0])
    assert each(tokens).isnan().all()
