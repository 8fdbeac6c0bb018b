"""`MultiSteps`: gradient accumulation in the optimizer, with means, skipped mini-steps and the arguments of
the inner update."""

from __future__ import annotations

from functools import partial

import optax
import pytest
import torch

from pure import optim, tree


def test_k_mini_steps_equal_one_update_with_the_mean_gradient() -> None:
    params = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
    inner = optim.adamw(0.1, weight_decay=0.1)
    opt = optim.MultiSteps(inner, 3, accumulator_dtype=torch.float64)
    state = opt.init(params)
    grads = [{"w": torch.tensor([i, -(i**2)], dtype=torch.float64)} for i in (1.0, 2.0, 6.0)]
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


def test_a_skipped_mini_step_is_neither_accumulated_nor_counted() -> None:
    opt = optim.MultiSteps(optim.sgd(1.0), 2, should_skip_update_fn=optim.skip_not_finite)
    params = torch.zeros(2)
    state, update_history = opt.init(params), []
    for g in ([1.0, 1.0], [float("nan"), 0.0], [3.0, 5.0]):
        updates, state = opt.update(torch.tensor(g), state, params)
        update_history.append(updates.tolist())
    assert update_history == [[0, 0], [0, 0], [-2, -3]]
    assert (state.gradient_step, state.mini_step, state.skip_state["num_not_finite"]) == (1, 0, 0)


def test_the_accumulator_is_zero_again_after_an_infinite_gradient() -> None:
    """optax resets the accumulator by multiplying it by 0, which leaves NaN."""
    opt, params = optim.MultiSteps(optim.sgd(1.0), 1), torch.zeros(1)
    _, state = opt.update(torch.tensor([float("inf")]), opt.init(params))
    assert state.acc_grads.tolist() == [0.0]


def test_the_grad_norm_of_a_mini_step_is_not_passed_to_the_inner_optimizer() -> None:
    """The inner optimizer clips by the norm of the mean gradient, 6, not by that of the last mini-step, 2."""
    inner = optim.apply_if_finite(optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(1.0)), 9)
    opt, params = optim.MultiSteps(inner, 2), torch.zeros(1)
    state = opt.init(params)
    for g in (10.0, 2.0):
        grads = torch.tensor([g])
        finite = torch.tensor(True)
        updates, state = opt.update(grads, state, params, grad_norm=tree.norm(grads), finite=finite)
    assert updates.tolist() == [-1.0]


def test_the_state_has_the_fields_of_optax() -> None:
    assert optim.MultiStepsState._fields == optax.MultiStepsState._fields


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"every_k_schedule must be an int >= 1, or .*got 0"):
        optim.MultiSteps(optim.sgd(0.1), 0)
    opt = optim.MultiSteps(optim.sgd(0.1), 2, should_skip_update_fn=partial(_return_a_bad_skip_decision))
    with pytest.raises(
        ValueError, match=r"must return a \[\] bool tensor and a tree, got torch.float32\[1\]"
    ):
        opt.update(torch.zeros(1), opt.init(torch.zeros(1)))


def _return_a_bad_skip_decision(updates: object, step: object, params: object) -> tuple[torch.Tensor, tuple]:
    return torch.zeros(1), ()
