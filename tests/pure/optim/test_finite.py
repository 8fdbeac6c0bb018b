"""`apply_if_finite` skips and counts updates that are not finite; after too many in a row it applies them."""

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


def test_a_skipped_update_leaves_the_inner_state_unchanged() -> None:
    opt = optim.apply_if_finite(optim.adamw(0.1), 5)
    params = torch.zeros(2)
    _, state = opt.update(torch.tensor(GOOD), opt.init(params), params)
    updates, new_state = opt.update(torch.tensor(BAD), state, params)
    assert updates.tolist() == [0.0, 0.0]
    leaf_pairs = zip(tree.leaves(state.inner_state), tree.leaves(new_state.inner_state), strict=True)
    assert all(torch.equal(a, b) for a, b in leaf_pairs)
    assert new_state.notfinite_count.item() == 1
    assert not new_state.last_finite.item()
    assert new_state.total_notfinite.item() == 1


def test_counts_and_updates_equal_optax() -> None:
    """A sequence of good (g, finite) and bad (b) gradients, where two bad ones in a row are skipped."""
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


def test_a_finite_flag_passed_to_update_replaces_the_check() -> None:
    opt = optim.apply_if_finite(optim.sgd(1.0), 5)
    updates, state = opt.update(torch.tensor(GOOD), opt.init(torch.zeros(2)), finite=torch.tensor(False))
    assert updates.tolist() == [0.0, 0.0]
    assert state.total_notfinite.item() == 1


def test_all_finite_tells_whether_every_leaf_is_finite() -> None:
    assert optim.all_finite({}).item() is True
    assert optim.all_finite({"a": torch.tensor(BAD), "b": torch.tensor(GOOD)}).item() is False


@pytest.mark.parametrize("errors", [-1, 2.5])
def test_a_bad_number_of_errors_is_refused(errors: float) -> None:
    with pytest.raises(ValueError, match="max_consecutive_errors must be an int >= 0"):
        inspect.unwrap(optim.apply_if_finite)(optim.sgd(0.1), errors)
