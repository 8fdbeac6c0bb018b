"""`normuon`: rows of an orthogonal matrix with their lengths evened out. The law has the authors' trajectory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


def normalized_rows(m: np.ndarray, nu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formula after the momentum; (orthogonal matrix, matrix with rows divided)."""
    coeffs = torch.tensor((3.4445, -4.7750, 2.0315), dtype=torch.float64)
    u = optim.orthogonalize(torch.tensor(m.T)[None], coeffs)[0].numpy().T
    nu[:] = 0.2 * (u**2).mean(1, keepdims=True) + 0.8 * nu
    return u, u / (np.sqrt(nu) + 1e-8)


@pytest.mark.parametrize("consistent_rms", [None, 0.2])
def test_formula(consistent_rms: float | None) -> None:
    rng = np.random.default_rng(0)
    p, mu, nu = rng.normal(size=(6, 4)), np.zeros((6, 4)), np.zeros((6, 1))
    opt = optim.normuon(0.01, beta=0.9, beta2=0.8, weight_decay=0.3, consistent_rms=consistent_rms)
    params = {"w": torch.tensor(p)}
    state = opt.init(params)
    for _ in range(10):
        g = rng.normal(size=(6, 4))
        mu = 0.1 * g + 0.9 * mu
        u, rows = normalized_rows(0.1 * g + 0.9 * mu, nu)
        wanted = np.linalg.norm(u) * np.sqrt(6 / 4) if consistent_rms is None else 0.2 * np.sqrt(24)
        p = p - 0.01 * (rows * wanted / np.linalg.norm(rows) + 0.3 * p)
        updates, state = opt.update({"w": torch.tensor(g)}, state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params["w"].numpy(), p, rtol=1e-6)  # coefficients are float32


def test_other_axes_give_the_transposed_update() -> None:
    g = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)))
    axes = optim.MuonDimensionNumbers(reduction_axis=0, output_axis=1)
    plain = optim.scale_by_normuon()
    turned = optim.scale_by_normuon(weight_dimension_numbers=axes)
    step, state = plain.update(g, plain.init(g))
    other, other_state = turned.update(g.T.clone(), turned.init(g.T))
    torch.testing.assert_close(other.T, step)
    torch.testing.assert_close(other_state.nu.T, state.nu)
    assert state.nu.shape == (5, 1)


def test_a_gradient_of_zeros_leaves_the_matrix_and_its_derivative_is_finite() -> None:
    opt, zeros = optim.scale_by_normuon(), torch.zeros(3, 2)
    state = opt.init(zeros)
    assert not opt.update(zeros, state)[0].any()
    slope = torch.func.grad(lambda g: opt.update(g, state)[0].sum())(zeros)
    assert slope.isfinite().all()


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"beta2 must be in \[0, 1\), got 1"):
        optim.normuon(0.1, beta2=1)
    with pytest.raises(ValueError, match="normuon: preconditioning must be one of"):
        optim.normuon(0.1, preconditioning="none")
    with pytest.raises(ValueError, match="consistent_rms must be a finite number >= 0"):
        optim.normuon(0.1, consistent_rms=-1.0)
