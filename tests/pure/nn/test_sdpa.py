"""SDPA refuses arguments that its kernels do not support. (Its values: test_backend.)"""

from __future__ import annotations

import pytest
import torch

from pure import random
from pure.nn.naive import naive
from pure.nn.sdpa import sdpa


def test_refuses_a_dropout_mask() -> None:
    one = torch.ones(1, 2, 1, 1)
    with pytest.raises(
        ValueError, match="sdpa: its kernels take no dropout mask; use backend='naive' or 'flash'"
    ):
        sdpa(one, one, one, dropout_mask=torch.ones(1, 1, 2, 2))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_is_right_though_slow_under_vmap_on_a_cpu() -> None:
    q, k, v = (random.normal(random.key(i), (2, 1, 5, heads, 4)) for i, heads in enumerate((4, 2, 2)))
    torch.testing.assert_close(torch.func.vmap(sdpa)(q, k, v), torch.func.vmap(naive)(q, k, v))
