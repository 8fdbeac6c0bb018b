"""`muon`: its update of a matrix against formula and optax, and which leaves it leaves to Adam."""

from __future__ import annotations

import numpy as np
import optax
import pytest
import torch

from pure import optim, tree


def test_muon_steps_along_the_singular_vectors_of_nesterov_momentum() -> None:
    """Momentum with bias correction and Nesterov's look-ahead, in NumPy. The update has the singular vectors
    of that matrix, and singular values near 0.95."""
    rng, beta, rate = np.random.default_rng(0), 0.9, 0.1
    opt = optim.muon(rate, beta=beta, ns_steps=5)
    params = {"w": torch.zeros(6, 4, dtype=torch.float64)}
    state, mu = opt.init(params), np.zeros((6, 4))
    for t in range(1, 6):
        g = rng.normal(size=(6, 4))
        mu = beta * mu + (1 - beta) * g
        ahead = beta * mu / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        updates, state = opt.update({"w": torch.tensor(g)}, state, params)
    u, _, vt = np.linalg.svd(ahead, full_matrices=False)
    step = updates["w"].numpy() / (-rate * np.sqrt(6 / 4))
    rotated = u.T @ step @ vt.T
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-7)
    assert np.all(np.abs(np.diag(rotated) - 0.95) < 0.3)
    np.testing.assert_allclose(state.inner_states["muon"].inner_state[0].mu["w"].numpy(), mu, rtol=1e-12)


def test_adaptive_updates_are_scaled_by_the_dual_norm_of_the_gradient() -> None:
    g = {"w": torch.diag(torch.tensor([3.0, 1.0]))}
    plain, adaptive = (optim.scale_by_muon(nesterov=False, adaptive=flag) for flag in (False, True))
    a, b = (opt.update(g, opt.init(g))[0]["w"] for opt in (plain, adaptive))
    torch.testing.assert_close(b, (g["w"] * a).sum() * a)


def test_leaves_that_are_no_hidden_matrices_are_updated_by_adam() -> None:
    params = {"embedding": torch.ones(3, 2), "layers": [{"norm": torch.ones(2), "q": torch.ones(2, 2)}]}
    opt = optim.muon(
        0.1, nesterov=False, adam_learning_rate=0.01, muon_weight_dimension_numbers=optim.hidden_matrices
    )
    updates, state = opt.update(params, opt.init(params), params)
    torch.testing.assert_close(updates["embedding"], torch.full((3, 2), -0.01))
    torch.testing.assert_close(updates["layers"][0]["norm"], torch.full((2,), -0.01))
    assert state.inner_states["muon"].inner_state[0].mu["embedding"] == optim.MaskedNode()
    default_state = optim.muon(0.1).init(params)  # every matrix is updated by Muon
    assert default_state.inner_states["adam"].inner_state[0].mu["embedding"] == optim.MaskedNode()


def test_muon_equals_optax_on_the_transposed_matrix() -> None:
    """Our matrices are [out, in] and optax's [in, out]: we scale up tall ones, optax wide ones."""
    g = torch.tensor(np.random.default_rng(0).normal(size=(8, 2)), dtype=torch.float32)
    opt, peer = optim.muon(1.0), optax.contrib.muon(1.0)
    ours, _ = opt.update({"w": g}, opt.init({"w": g}), {"w": g})
    theirs, _ = peer.update({"w": g.T.numpy()}, peer.init({"w": g.T.numpy()}), {"w": g.T.numpy()})
    np.testing.assert_allclose(ours["w"].T.numpy(), theirs["w"], atol=1e-4)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(
        ValueError, match="preconditioning must be one of frobenius, spectral, aol, schatten, got 'l2'"
    ):
        optim.muon(0.1, preconditioning="l2")
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        optim.muon(0.1, beta=1.0)
    with pytest.raises(ValueError, match="learning_rate"):
        optim.muon(-0.1)
    with pytest.raises(ValueError, match=r"expected a matrix, got a leaf \(3,\)"):
        optim.scale_by_muon().update({"w": torch.ones(3)}, optim.scale_by_muon().init({"w": torch.ones(3)}))


def test_dimension_numbers_are_given_per_leaf() -> None:
    """MuonDimensionNumbers is a tuple of ints, but counts as one leaf of the mask."""
    params = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    opt = optim.muon(0.1, muon_weight_dimension_numbers={"a": optim.MuonDimensionNumbers(), "b": None})
    state = opt.init(params)
    assert tree.paths(state.inner_states["muon"].inner_state[0].mu) == ["a"]
