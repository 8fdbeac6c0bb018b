"""Updates that are not finite are skipped and counted, and applied after too many in a row."""

from __future__ import annotations

import inspect

import flax.serialization
import jax
import jax.numpy as jnp
import optax
import pytest
import torch

from pure import optim, tree

GOOD, BAD = [1.0, 2.0], [float("inf"), 2.0]


def test_a_skipped_update_leaves_everything_as_it_was() -> None:
    opt = optim.apply_if_finite(optim.adamw(0.1), 5)
    params = torch.zeros(2)
    _, state = opt.update(torch.tensor(GOOD), opt.init(params), params)
    updates, after = opt.update(torch.tensor(BAD), state, params)
    assert updates.tolist() == [0.0, 0.0]
    same = zip(tree.leaves(state.inner_state), tree.leaves(after.inner_state), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert [x.item() for x in after[:3]] == [1, False, 1]


def test_counts_go_as_in_optax() -> None:
    """Finite (g) and not (b) in all orders that matter, with two errors in a row allowed."""
    peer_update = jax.jit(optax.apply_if_finite(optax.sgd(0.1, 0.9), 2).update)
    opt, peer = optim.apply_if_finite(optim.sgd(0.1, 0.9), 2), optax.apply_if_finite(optax.sgd(0.1, 0.9), 2)
    state, peer_state = opt.init(torch.zeros(2)), peer.init(jnp.zeros(2))
    for letter in "gbgbbgbbbbg":
        g = GOOD if letter == "g" else BAD
        updates, state = opt.update(torch.tensor(g), state)
        peer_updates, peer_state = peer_update(jnp.asarray(g), peer_state)
        ours, theirs = (flax.serialization.to_state_dict(s) for s in (state, peer_state))
        assert [ours[k].item() for k in list(ours)[:3]] == [theirs[k].item() for k in list(theirs)[:3]]
        torch.testing.assert_close(updates, torch.tensor(peer_updates.tolist()), equal_nan=True)


def test_an_answer_that_is_given_is_taken() -> None:
    opt = optim.apply_if_finite(optim.sgd(1.0), 5)
    updates, state = opt.update(torch.tensor(GOOD), opt.init(torch.zeros(2)), finite=torch.tensor(False))
    assert updates.tolist() == [0.0, 0.0]
    assert state.total_notfinite.item() == 1


def test_all_finite() -> None:
    assert optim.all_finite({}).item() is True
    assert optim.all_finite({"a": torch.tensor(BAD), "b": torch.tensor(GOOD)}).item() is False


@pytest.mark.parametrize("errors", [-1, 2.5])
def test_bad_arguments(errors: float) -> None:
    with pytest.raises(ValueError, match="max_consecutive_errors must be an int >= 0"):
        inspect.unwrap(optim.apply_if_finite)(optim.sgd(0.1), errors)
