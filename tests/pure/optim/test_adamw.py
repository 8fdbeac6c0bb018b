"""`pure.optim.adamw`: Adam and AdamW compared with their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import optim


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("b1", "b2", "eps", "eps_root", "decay"), [(0.9, 0.999, 1e-8, 0.0, 0.1), (0, 0.5, 0.1, 0.2, 0)]
)
def test_adamw_equals_its_formula(
    b1: float, b2: float, eps: float, eps_root: float, decay: float, nesterov: bool
) -> None:
    rng = np.random.default_rng(0)
    p, rate = rng.normal(size=7), 0.01
    opt = optim.adamw(rate, b1, b2, eps, eps_root, weight_decay=decay, nesterov=nesterov)
    params = torch.tensor(p)
    state, mu, nu = opt.init(params), np.zeros(7), np.zeros(7)
    for t in range(1, 30):
        g = rng.normal(size=7)
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g * g
        mean = mu / (1 - b1**t)
        if nesterov:
            mean = b1 * mu / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        p = p - rate * (mean / (np.sqrt(nu / (1 - b2**t) + eps_root) + eps) + decay * p)
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), p, rtol=1e-12)
    np.testing.assert_allclose(state[0].mu.numpy(), mu, rtol=1e-12)
    np.testing.assert_allclose(state[0].nu.numpy(), nu, rtol=1e-12)
    assert state[0].count.item() == 29


def test_adam_is_adamw_without_decay() -> None:
    g, p = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.ones(5)
    adam, adamw = optim.adam(0.1, eps_root=1e-3), optim.adamw(0.1, eps_root=1e-3, weight_decay=0.0)
    assert torch.equal(adam.update(g, adam.init(p))[0], adamw.update(g, adamw.init(p))[0])


def test_gradients_of_zero_give_updates_of_zero() -> None:
    opt = optim.adam(0.1)
    updates, _ = opt.update(torch.zeros(3), opt.init(torch.zeros(3)))
    assert updates.tolist() == [0, 0, 0]


def test_a_learning_rate_is_a_number_a_tensor_or_a_schedule() -> None:
    g, p = torch.tensor([3.0, -1.0]), torch.zeros(2)
    rates = (0.25, torch.tensor(0.25), optim.constant_schedule(0.25))
    first, *rest = (opt.update(g, opt.init(p), p)[0] for opt in map(optim.adamw, rates))
    assert all(torch.equal(first, other) for other in rest)


def test_a_first_moment_of_another_dtype_gives_the_dtypes_of_optax() -> None:
    """Updates are float32 if the gradients or the first moment are; in the state each moment keeps its dtype."""
    opt = optim.scale_by_adam(mu_dtype=torch.float32)
    p = torch.zeros(3, dtype=torch.bfloat16)
    updates, state = opt.update(torch.ones_like(p), opt.init(p))
    assert (updates.dtype, state.mu.dtype, state.nu.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    opt = optim.scale_by_adam(mu_dtype=torch.bfloat16)
    updates, state = opt.update(torch.ones(3), opt.init(torch.zeros(3)))
    assert (updates.dtype, state.mu.dtype, state.nu.dtype) == (torch.float32, torch.bfloat16, torch.float32)


def test_an_update_can_be_differentiated_by_the_gradient() -> None:
    """As for meta-gradients: with b1 = b2 = 0, d(update)/d(g) of the first step is eps / (|g| + eps)²."""
    opt = optim.scale_by_adam(0.0, 0.0, eps=0.5)
    g = torch.tensor([2.0])
    derivative = torch.func.grad(lambda g: opt.update(g, opt.init(torch.zeros(1)))[0].sum())(g)
    torch.testing.assert_close(derivative, torch.tensor([0.5 / 2.5**2]))


@pytest.mark.parametrize("builder", [optim.adam, optim.adamw])
def test_hyperparameters_out_of_range_are_refused(builder: object) -> None:
    with pytest.raises(
        ValueError, match=r"learning_rate must be a finite number >= 0, got -0\.1; the optimizer subtracts"
    ):
        builder(-0.1)
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.0"):
        builder(0.1, b1=1.0)
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\), got -0.5"):
        builder(0.1, b2=-0.5)
    with pytest.raises(ValueError, match="eps must be a finite number >= 0"):
        builder(0.1, eps=-1e-8)
    with pytest.raises(TypeError, match=r"mu_dtype must be None or a floating torch\.dtype"):
        builder(0.1, mu_dtype=torch.int8)


def test_gradients_of_another_tree_are_refused() -> None:
    opt = optim.adam(0.1)
    with pytest.raises(ValueError, match="key"):
        opt.update({"b": torch.zeros(1)}, opt.init({"a": torch.zeros(1)}))
