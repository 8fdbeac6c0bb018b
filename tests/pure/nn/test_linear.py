"""The one matrix product."""

from __future__ import annotations

import torch

from pure import random
from pure.nn.linear import linear


def test_is_a_product_with_the_transpose() -> None:
    weight, x, bias = (random.normal(random.key(i), s) for i, s in enumerate([(5, 3), (2, 4, 3), (5,)]))
    expected = torch.einsum("bti,oi->bto", x.double(), weight.double())
    torch.testing.assert_close(linear(weight, x).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linear(weight, x, bias).double(), expected + bias, rtol=1e-5, atol=1e-6)


def test_runs_under_vmap_over_weights() -> None:
    weights, x = random.normal(random.key(0), (4, 5, 3)), random.normal(random.key(1), (2, 3))
    together = torch.func.vmap(linear, (0, None))(weights, x)
    torch.testing.assert_close(together, torch.stack([linear(w, x) for w in weights]))
