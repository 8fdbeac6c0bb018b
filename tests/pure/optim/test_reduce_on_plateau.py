"""`reduce_on_plateau` against optax, step by step over 60 noisy losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure import optim


@pytest.mark.parametrize(
    "arguments",
    [
        {"factor": 0.5, "patience": 1},
        {"factor": 0.5, "patience": 3, "cooldown": 2, "accumulation_size": 3},
        {"factor": 0.3, "patience": 2, "rtol": 0.0, "atol": 0.1, "min_scale": 0.2},
    ],
)
def test_updates_and_state_equal_optax_at_every_step(arguments: dict) -> None:
    opt, peer = optim.reduce_on_plateau(**arguments), optax.contrib.reduce_on_plateau(**arguments)
    state, peer_state = opt.init(torch.ones(2)), peer.init(jnp.ones(2))
    peer_update = jax.jit(peer.update)
    losses = np.random.default_rng(0).normal(size=60) * 0.2 + np.maximum(2 - np.arange(60) / 10, 0)
    for loss in losses.astype(np.float32):
        updates, state = opt.update(torch.ones(2), state, value=torch.tensor(loss))
        peer_updates, peer_state = peer_update(jnp.ones(2), peer_state, value=jnp.asarray(loss))
        np.testing.assert_allclose(updates.numpy(), peer_updates, rtol=1e-6)
        for name in state._fields:
            np.testing.assert_allclose(
                getattr(state, name).numpy(), getattr(peer_state, name), rtol=1e-5, err_msg=name
            )
    assert state.scale < 1


def test_an_update_without_a_loss_is_refused() -> None:
    opt = optim.reduce_on_plateau()
    with pytest.raises(ValueError, match=r"call update\(grads, state, params, value=loss\)"):
        opt.update(torch.ones(1), opt.init(torch.ones(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, r"factor must be in \(0, 1\), got 1.0"),
        ({"patience": 0}, "patience must be >= 1"),
        ({"rtol": 2.0}, r"rtol must be in \[0, 1\]"),
        ({"atol": -1.0}, "atol must be >= 0"),
        ({"rtol": 0.0}, r"rtol \+ atol must be > 0"),
        ({"cooldown": -1}, "cooldown must be >= 0"),
        ({"accumulation_size": 0}, "accumulation_size must be >= 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim.reduce_on_plateau(**arguments)
