"""`nadam` and `nadamw` are `adam` and `adamw` with `nesterov=True`, bit for bit."""

from __future__ import annotations

import torch

from pure import optim, tree


def test_nadam_equals_adam_with_nesterov() -> None:
    params, g = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    pairs = (
        (optim.nadam(0.1), optim.adam(0.1, nesterov=True)),
        (optim.nadamw(0.1), optim.adamw(0.1, nesterov=True)),
        (optim.nadam(0.1, nesterov=False), optim.adam(0.1)),
    )
    for one, other in pairs:
        results = [opt.update(g, opt.init(params), params) for opt in (one, other)]
        assert all(torch.equal(a, b) for a, b in zip(*map(tree.leaves, results), strict=True))
