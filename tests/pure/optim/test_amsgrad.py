"""AMSGrad against its formula, and the denominator that never shrinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


@pytest.mark.parametrize("corrected", [False, True])
def test_formula(corrected: bool) -> None:
    rng = np.random.default_rng(0)
    p, mu, nu, top = rng.normal(size=9), np.zeros(9), np.zeros(9), np.zeros(9)
    opt = optim.amsgrad(0.01, 0.8, 0.9, bias_correction_mu=corrected, bias_correction_nu=corrected)
    params = torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9) / t
        mu, nu = 0.2 * g + 0.8 * mu, 0.1 * g**2 + 0.9 * nu
        first, second = (1 - 0.8**t, 1 - 0.9**t) if corrected else (1, 1)
        top = np.maximum(top, nu / second)
        p = p - 0.01 * mu / first / (np.sqrt(top) + 1e-8)
        updates, state = opt.update(torch.tensor(g), state)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)
    assert (state[0].nu_max >= state[0].nu).all()
