"""`inject_hyperparams`: hyperparameters as tensors in the optimizer's state."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree

PARAMS = {"w": torch.ones(2), "bias": torch.ones(2)}
GRADS = {"w": torch.tensor([1.0, -2.0]), "bias": torch.tensor([0.5, 0.5])}


def test_numeric_arguments_become_hyperparameters_and_schedules_are_evaluated() -> None:
    rate = optim.linear_schedule(1.0, 0.0, 4)
    opt = optim.inject_hyperparams(optim.adamw)(rate, weight_decay=torch.tensor(0.5), mask=optim.decay_mask)
    state = opt.init(PARAMS)
    assert list(state.hyperparams) == ["b1", "b2", "eps", "eps_root", "weight_decay", "learning_rate"]
    assert list(state.hyperparams_states) == ["learning_rate"]
    assert all(x.shape == () and x.dtype == torch.float32 for x in state.hyperparams.values())
    for expected in (1.0, 0.75, 0.5):
        _, state = opt.update(GRADS, state, PARAMS)
        assert state.hyperparams["learning_rate"].item() == expected


def test_updates_equal_those_without_injection() -> None:
    """Up to 2.4e-5: with injection b2 is a float32 tensor, so 1 - b2 is rounded differently."""
    without_injection = optim.adamw(0.1, weight_decay=0.5, mask=optim.decay_mask)
    with_injection = optim.inject_hyperparams(optim.adamw)(0.1, weight_decay=0.5, mask=optim.decay_mask)
    a, b = (opt.update(GRADS, opt.init(PARAMS), PARAMS)[0] for opt in (without_injection, with_injection))
    for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True):
        torch.testing.assert_close(x, y, rtol=2.5e-5, atol=0)


def test_each_member_of_a_vmapped_population_has_its_own_learning_rate() -> None:
    opt = optim.inject_hyperparams(optim.sgd)(0.0)
    params, grads = tree.map(lambda x: x.expand(3, 2), (PARAMS, GRADS))
    state = torch.vmap(opt.init)(params)
    state = state._replace(hyperparams={"learning_rate": torch.tensor([0.0, 1.0, 2.0])})
    updates, _ = torch.vmap(opt.update)(grads, state, params)
    torch.testing.assert_close(updates["w"], -torch.tensor([[0.0], [1.0], [2.0]]) * GRADS["w"])


def test_hyperparameters_stay_float32_with_bfloat16_params() -> None:
    """optax stores b2 = 0.999 in bfloat16, which rounds it to 1, and its first update is NaN."""
    opt = optim.inject_hyperparams(optim.adam)(0.1)
    params = tree.cast(PARAMS, torch.bfloat16)
    state = opt.init(params)
    assert state.hyperparams["b2"].item() == pytest.approx(0.999)
    assert optim.all_finite(opt.update(params, state, params)[0])


def test_static_args_stay_out_of_the_state_and_hyperparam_dtype_sets_the_dtype() -> None:
    opt = optim.inject_hyperparams(optim.adam, static_args=("b1", "eps"))(0.1)
    assert list(opt.init(PARAMS).hyperparams) == ["learning_rate", "b2", "eps_root"]
    float64_opt = optim.inject_hyperparams(optim.sgd, hyperparam_dtype=torch.float64)(0.1)
    assert float64_opt.init(PARAMS).hyperparams["learning_rate"].dtype == torch.float64


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(
        ValueError, match="static_args beta are not arguments of the builder; it has learning_rate, b1"
    ):
        optim.inject_hyperparams(optim.adam, static_args="beta")
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0"):
        optim.inject_hyperparams(optim.adam)(-1.0)
    with pytest.raises(TypeError, match="missing a required argument: 'learning_rate'"):
        optim.inject_hyperparams(optim.adam)()
