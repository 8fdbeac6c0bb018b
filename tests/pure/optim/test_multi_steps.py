"""Gradient accumulation in the optimizer: means, sums, skipped mini-steps, what `inner` gets."""

from __future__ import annotations

from functools import partial

import optax
import pytest
import torch

from pure import optim, tree


def test_k_gradients_are_one_update_with_their_mean() -> None:
    params = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    inner = optim.adamw(0.1, weight_decay=0.1)
    opt = optim.MultiSteps(inner, 3, accumulator_dtype=torch.float64)
    state, grads = (
        opt.init(params),
        [{"w": torch.tensor([i, -(i**2)], dtype=torch.float64)} for i in (1.0, 2.0, 6.0)],
    )
    for g in grads:
        assert not optim.has_updated(state)
        updates, state = opt.update(g, state, params)
    mean = {"w": torch.stack([g["w"] for g in grads]).mean(0)}
    expected, inner_state = inner.update(mean, inner.init(params), params)
    torch.testing.assert_close(updates["w"], expected["w"], rtol=1e-12, atol=0)
    for ours, theirs in zip(tree.leaves(state.inner_opt_state), tree.leaves(inner_state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert optim.has_updated(state)
    assert state.acc_grads["w"].tolist() == [0.0, 0.0]


def test_a_skipped_mini_step_never_happened() -> None:
    opt = optim.MultiSteps(optim.sgd(1.0), 2, should_skip_update_fn=optim.skip_not_finite)
    params = torch.zeros(2)
    state, seen = opt.init(params), []
    for g in ([1.0, 1.0], [float("nan"), 0.0], [3.0, 5.0]):
        updates, state = opt.update(torch.tensor(g), state, params)
        seen.append(updates.tolist())
    assert seen == [[0, 0], [0, 0], [-2, -3]]
    assert (state.gradient_step, state.mini_step, state.skip_state["num_not_finite"]) == (1, 0, 0)


def test_infinite_gradients_leave_no_trace_in_the_accumulator() -> None:
    """optax multiplies the accumulator by 0, and keeps NaN."""
    opt, params = optim.MultiSteps(optim.sgd(1.0), 1), torch.zeros(1)
    _, state = opt.update(torch.tensor([float("inf")]), opt.init(params))
    assert state.acc_grads.tolist() == [0.0]


def test_the_norm_of_one_mini_step_is_not_that_of_the_mean() -> None:
    inner = optim.apply_if_finite(optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0)), 9)
    opt, params = optim.MultiSteps(inner, 2), torch.zeros(1)
    state = opt.init(params)
    for g in (10.0, 2.0):
        grads = torch.tensor([g])
        finite = torch.tensor(True)
        updates, state = opt.update(grads, state, params, grad_norm=tree.norm(grads), finite=finite)
    assert updates.tolist() == [-1.0]


def test_fields_are_those_of_optax() -> None:
    assert optim.MultiStepsState._fields == optax.MultiStepsState._fields


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"every_k_schedule must be an int >= 1, or .*got 0"):
        optim.MultiSteps(optim.sgd(0.1), 0)
    opt = optim.MultiSteps(optim.sgd(0.1), 2, should_skip_update_fn=partial(_odd))
    with pytest.raises(
        ValueError, match=r"must return a \[\] bool tensor and a tree, got torch.float32\[1\]"
    ):
        opt.update(torch.zeros(1), opt.init(torch.zeros(1)))


def _odd(updates: object, step: object, params: object) -> tuple[torch.Tensor, tuple]:
    return torch.zeros(1), ()
