"""`scale_by_factored_rms` (Adafactor's second moments) against its formula and optax, and refused
arguments."""

from __future__ import annotations

import numpy as np
import optax
import pytest
import torch

from pure import optim


def test_factored_updates_equal_the_formula() -> None:
    rng = np.random.default_rng(0)
    row, column = np.zeros(4), np.zeros(5)
    opt = optim.scale_by_factored_rms(min_dim_size_to_factor=4, decay_rate=0.9)
    state = opt.init(torch.zeros(4, 5, dtype=torch.float64))
    for i in range(20):
        g = rng.normal(size=(4, 5))
        decay = float(optim.decay_rate_pow(torch.tensor(i, dtype=torch.int32), 0.9))
        row = decay * row + (1 - decay) * (g**2).mean(1)
        column = decay * column + (1 - decay) * (g**2).mean(0)
        updates, state = opt.update(torch.tensor(g), state, torch.tensor(g))
        expected = g / np.sqrt(np.outer(row, column) / row.mean())
        np.testing.assert_allclose(updates.numpy(), expected, rtol=1e-6)  # the decay is float32
    assert state.v.shape == (1,)


def test_decay_rate_pow_equals_its_formula() -> None:
    for count in (0, 1, 9, 999):
        decay = optim.decay_rate_pow(torch.tensor(count, dtype=torch.int32))
        assert decay.item() == pytest.approx(1 - (count + 1) ** -0.8, abs=1e-7)
    assert optim.decay_rate_pow(torch.tensor(-5, dtype=torch.int32)) == 0


SHAPES = [(), (7,), (3, 9), (9, 3), (5, 5), (6, 2, 5), (5, 6, 2), (4, 4, 4), (1, 8), (2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_updates_and_state_equal_optax_for_every_shape(shape: tuple[int, ...]) -> None:
    import jax
    import jax.numpy as jnp

    g = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = (library.scale_by_factored_rms(min_dim_size_to_factor=3) for library in (optim, optax))
    state, peer_state = ours.init(torch.tensor(g)), theirs.init(jnp.asarray(g))
    peer_update = jax.jit(theirs.update)  # compiled once, not once an operation
    for _ in range(2):
        updates, state = ours.update(torch.tensor(g), state, torch.tensor(g))
        peer_updates, peer_state = peer_update(jnp.asarray(g), peer_state, jnp.asarray(g))
    np.testing.assert_allclose(updates.numpy(), np.asarray(peer_updates), rtol=2e-6)
    for a, b in zip(state, peer_state, strict=True):
        assert a.shape == b.shape  # so the same axes are factored
        np.testing.assert_allclose(a.numpy(), np.asarray(b), rtol=2e-6)


def test_an_unfactored_state_is_refused_by_a_factored_update() -> None:
    g = torch.ones(4, 6)
    unfactored_state = optim.scale_by_factored_rms(factored=False).init(g)
    with pytest.raises(ValueError, match=r"expected v_row, v_col, v of shapes \[\[4\], \[6\], \[1\]\], got"):
        optim.scale_by_factored_rms(min_dim_size_to_factor=4).update(g, unfactored_state, g)


def test_zero_gradients_give_zero_updates() -> None:
    for dtype in (torch.float32, torch.float16):
        for min_size in (2, 9):  # with factored second moments, and without
            opt = optim.scale_by_factored_rms(min_dim_size_to_factor=min_size)
            zero = torch.zeros(3, 4, dtype=dtype)
            state = opt.init(zero)
            for _ in range(2):
                updates, state = opt.update(zero, state, zero)
                assert torch.equal(updates, zero)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="min_dim_size_to_factor must be an int >= 1, got 0; factored=False"):
        optim.scale_by_factored_rms(min_dim_size_to_factor=0)
    opt = optim.scale_by_factored_rms()
    with pytest.raises(ValueError, match="expected params, got None"):
        opt.update(torch.ones(2), opt.init(torch.ones(2)))
