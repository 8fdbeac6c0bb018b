"""`pure/transform/frozen.py`: forward and reverse mode agree that a frozen value has no derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.frozen import frozen
from pure.transform.grad import grad
from stages.dpo import dpo
from stages.kto import kto
from stages.ppo import ppo
from tests.laws.test_stages import ROLLOUT_OPTIONS, answers, pair_batch, rollout_batch, small


def test_a_frozen_function_has_no_derivative_in_either_mode() -> None:
    x = torch.tensor([1.0, 2.0])
    function = lambda x: (x * frozen(lambda v: {"a": v.exp(), "b": None})(x)["a"]).sum()  # noqa: E731
    torch.testing.assert_close(grad(function)(x), x.exp())
    torch.testing.assert_close(torch.func.jvp(function, (x,), (torch.ones(2),))[1], x.exp().sum())


def test_a_reference_carries_no_tangent() -> None:
    """dpo and kto read the reference's log-probabilities: both modes say that the loss ignores their change."""
    model = transformer(small(num_hidden_layers=1))
    params, reference = model.init(random.key(0)), model.init(random.key(1))
    tangents = tree.map(torch.ones_like, reference)
    for make, batch in ((dpo, pair_batch(0)), (kto, answers(0))):
        loss = lambda r, make=make, batch=batch: make(model, optim.sgd(0.1), reference=r).loss(  # noqa: E731
            params, {"batch_position": torch.arange(8), **batch}, None
        )[0]
        assert torch.func.jvp(loss, (reference,), (tangents,))[1] == 0
        assert all(not g.any() for g in tree.leaves(grad(loss)(reference)))


def test_the_derivative_of_a_ppo_step_for_lam_flows_in_both_modes() -> None:
    model = transformer(small(num_hidden_layers=1))
    state = ppo(model, optim.sgd(0.1), **ROLLOUT_OPTIONS | {"reference": None}).init(random.key(0))
    state = state._replace(params=tree.cast(state.params, torch.float64))

    def change(lam: Tensor) -> Tensor:
        """Squared norm of the params after a step with this λ."""
        made = ppo(
            model,
            optim.sgd(0.1),
            lam=lam,
            value_weight=1.0,
            epochs=1,
            **ROLLOUT_OPTIONS | {"reference": None},
        )
        return sum(x.square().sum() for x in tree.leaves(made.step(state, rollout_batch(0)).params))

    lam, h = torch.tensor(0.9, dtype=torch.float64), 1e-5
    finite = (change(lam + h) - change(lam - h)) / (2 * h)
    assert abs(finite) > 1e-6
    torch.testing.assert_close(grad(change)(lam), finite, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(
        torch.func.jvp(change, (lam,), (torch.ones_like(lam),))[1], finite, rtol=1e-4, atol=1e-9
    )
