"""Adan against its formula."""

from __future__ import annotations

import numpy as np
import torch

from pure import optim


def test_formula() -> None:
    rng = np.random.default_rng(0)
    p, m, v, n, last = rng.normal(size=9), np.zeros(9), np.zeros(9), np.zeros(9), None
    opt, params = optim.adan(0.01, 0.9, 0.8, 0.7, weight_decay=0.3), torch.tensor(p)
    state = opt.init(params)
    for t in range(1, 25):
        g = rng.normal(size=9)
        d = np.zeros(9) if last is None else g - last
        m, v, n, last = 0.1 * g + 0.9 * m, 0.2 * d + 0.8 * v, 0.3 * (g + 0.2 * d) ** 2 + 0.7 * n, g
        u = m / (1 - 0.9**t) + 0.2 * v / (1 - 0.8**t)
        p = p - 0.01 * (u / (np.sqrt(n / (1 - 0.7**t) + 1e-8) + 1e-8) + 0.3 * p)
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-11)
