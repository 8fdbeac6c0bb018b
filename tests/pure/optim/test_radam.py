"""RAdam against its formula, beside torch's, and its first steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def test_beside_torch() -> None:
    """torch compares ro with > 5 and adds eps before the correction: with eps = 0 nothing differs."""
    theirs = torch.nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))
    peer = torch.optim.RAdam([theirs], lr=0.01, betas=(0.8, 0.99), eps=0)
    opt, ours = optim.radam(0.01, 0.8, 0.99, eps=0.0), theirs.detach().clone()
    state = opt.init(ours)
    for i in range(1, 25):
        theirs.grad = torch.sin(theirs.detach() + i)
        updates, state = opt.update(torch.sin(ours + i), state)
        ours = optim.apply_updates(ours, updates)
        peer.step()
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("b2", [0.9, 0.999])
def test_the_rectification_is_accurate_in_float32(b2: float) -> None:
    """ro is the difference of two large numbers."""
    opt = optim.scale_by_radam(b1=0.0, b2=b2, eps=0.0)
    g = {dtype: torch.tensor([3.0], dtype=dtype) for dtype in (torch.float32, torch.float64)}
    states = {dtype: opt.init(x) for dtype, x in g.items()}
    for _ in range(12):
        steps = {}
        for dtype, x in g.items():
            steps[dtype], states[dtype] = opt.update(x, states[dtype])
        assert steps[torch.float32].item() == pytest.approx(steps[torch.float64].item(), rel=2e-3)


@pytest.mark.parametrize("threshold", [4.0, 0, -1.0, float("nan"), float("inf")])
def test_a_threshold_without_a_rectification_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"scale_by_radam: threshold must be a finite number > 4, got"):
        optim.radam(0.1, threshold=threshold)
