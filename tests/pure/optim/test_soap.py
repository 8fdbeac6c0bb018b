"""`soap` against its formula, with and without bases, and the derivative of several updates."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_optimizer
import torch
from torch import Tensor

from pure import optim, random, tree
from stages.stage import stage


def ordered_eigenvectors(m: np.ndarray) -> np.ndarray:
    return np.linalg.eigh(m)[1][:, ::-1]


def naive_soap(p: np.ndarray, grads: list[np.ndarray], rate: float, frequency: int) -> np.ndarray:
    """One matrix [O, I], both decays 0.9 and 0.8, one update after the other."""
    mu, nu = np.zeros_like(p), np.zeros_like(p)
    statistics = [np.zeros((n, n)) for n in p.shape]
    bases: list[np.ndarray] = []
    for s, g in enumerate(grads):
        if s:
            (left, right), mu = bases, 0.1 * g + 0.9 * mu
            nu = 0.2 * (left.T @ g @ right) ** 2 + 0.8 * nu
            step = left @ ((left.T @ mu @ right) / (np.sqrt(nu) + 1e-8)) @ right.T
            p = p - rate * np.sqrt(1 - 0.8**s) / (1 - 0.9**s) * step
        statistics = [0.2 * x + 0.8 * m for m, x in zip(statistics, (g @ g.T, g.T @ g), strict=True)]
        if s == 0:
            bases = [ordered_eigenvectors(m) for m in statistics]
        elif s % frequency == 0:
            orders = [np.argsort(-np.diag(q.T @ m @ q)) for m, q in zip(statistics, bases, strict=True)]
            nu = nu[np.ix_(*orders)]
            powers = [(m @ q)[:, o] for m, q, o in zip(statistics, bases, orders, strict=True)]
            bases = [np.linalg.qr(x)[0] for x in powers]
    return p


def test_formula() -> None:
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(4, 3)), [rng.normal(size=(4, 3)) * [9, 1, 1] for _ in range(12)]
    opt, params = optim.soap(0.01, 0.9, 0.8, weight_decay=0.0, precondition_frequency=3), torch.tensor(start)
    state = opt.init(params)
    for g in grads:
        updates, state = opt.update(torch.tensor(g), state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(params.numpy(), naive_soap(start, grads, 0.01, 3), rtol=1e-8)


def test_the_reference_has_the_same_trajectory() -> None:
    """Of 40 updates in float64; its QR decompositions are in float32."""
    rng = np.random.default_rng(1)
    start = torch.tensor(rng.normal(size=(5, 4)))
    opt, params, theirs = optim.soap(0.01, weight_decay=0.0), start, torch.nn.Parameter(start.clone())
    reference, state = pytorch_optimizer.SOAP([theirs], 0.01, weight_decay=0.0), opt.init(params)
    for _ in range(40):
        noise = torch.tensor(rng.normal(size=(5, 4)))
        updates, state = opt.update(params + noise, state, params)
        params = optim.apply_updates(params, updates)
        theirs.grad = theirs.detach() + noise
        reference.step()
    torch.testing.assert_close(params, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_without_bases_it_is_adam_one_update_later() -> None:
    params = {"long": torch.ones(5, 3).double(), "norm": torch.ones(3).double()}
    opt, adam = (
        optim.scale_by_soap(0.9, 0.8, eps=0.0, max_precond_dim=2),
        optim.scale_by_adam(0.9, 0.8, eps=0.0),
    )
    state, peer = opt.init(params), adam.init(params)
    assert state.left == {"long": optim.MaskedNode(), "norm": optim.MaskedNode()}
    for i in range(4):
        grads = tree.map(lambda p, i=i: random.normal(random.key(i), p.shape).double(), params)
        found, state = opt.update(grads, state)
        if i:
            expected, peer = adam.update(grads, peer)
            torch.testing.assert_close(found, expected)
        else:
            assert not any(x.any() for x in tree.leaves(found))


def test_the_derivative_of_several_updates_takes_the_bases_as_constants() -> None:
    """By both modes, and where gradients of low rank have equal eigenvalues."""
    opt = optim.scale_by_soap(precondition_frequency=1)
    grads = [random.normal(random.key(i), (4, 2)).double() for i in range(4)]

    def last_step(second: Tensor, bases: list | None = None) -> Tensor:
        state = opt.init(grads[0])
        for i, g in enumerate((grads[0], second, *grads[2:])):
            if bases is not None and i:
                state = state._replace(left_basis=bases[i - 1][0], right_basis=bases[i - 1][1])
            step, state = opt.update(g, state)
            kept.append((state.left_basis, state.right_basis))
        return (step * grads[0]).sum()

    kept: list = []
    last_step(grads[1])
    constants = list(kept)
    slope = torch.func.grad(last_step)(grads[1])
    assert slope.isfinite().all()
    assert slope.any()
    torch.testing.assert_close(slope, torch.func.grad(lambda g: last_step(g, constants))(grads[1]))
    along = torch.func.jvp(last_step, (grads[1],), (grads[2],))[1]
    torch.testing.assert_close(along, (slope * grads[2]).sum())


def test_a_gradient_that_is_not_finite_is_skipped_by_a_step() -> None:
    """No eigenvectors exist for it: the step must not raise either."""

    def loss(params: Tensor, batch: dict, key: Tensor | None) -> tuple:
        return (params * batch["x"].sum()).square().sum(), torch.tensor(1), {}

    made = stage(loss, optim.soap(0.1, precondition_frequency=1))
    state = made.init(random.key(0), torch.ones(2, 3))
    good, bad = {"x": torch.ones(1)}, {"x": torch.tensor([torch.nan])}
    first = made.step(state, bad)
    assert torch.equal(first.params, state.params)
    after = made.step(made.step(made.step(first, good), bad), good)
    assert after.params.isfinite().all()
    assert not torch.equal(after.params, state.params)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shampoo_beta must be in \[0, 1\), got 1"):
        optim.soap(0.1, shampoo_beta=1)
    with pytest.raises(ValueError, match="precondition_frequency must be an int >= 1, got 0"):
        optim.soap(0.1, precondition_frequency=0)
    with pytest.raises(ValueError, match=r"max_precond_dim must be an int >= 1, got 3\.0"):
        optim.soap(0.1, max_precond_dim=3.0)  # type: ignore[arg-type]
