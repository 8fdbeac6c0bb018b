"""AdaMax against its formula."""

from __future__ import annotations

import numpy as np
import torch

from pure import optim


def test_formula() -> None:
    rng = np.random.default_rng(0)
    p, mu, nu = rng.normal(size=9), np.zeros(9), np.zeros(9)
    opt, params = optim.adamaxw(0.01, 0.8, 0.9, 1e-3, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9)
        mu, nu = 0.2 * g + 0.8 * mu, np.maximum(abs(g) + 1e-3, 0.9 * nu)
        p = p - 0.01 * (mu / (1 - 0.8**t) / nu + 0.3 * p)
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)
