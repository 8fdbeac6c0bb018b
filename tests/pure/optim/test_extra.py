"""`pure.optim.extra`: `chain` accepts optimizers whose `update` takes no keyword arguments (optax's base
protocol)."""

from __future__ import annotations

import torch

from pure import tree
from pure.optim.base import chain
from pure.optim.extra import with_extra
from pure.types import GradientTransformation


def test_chain_passes_no_keyword_arguments_to_an_optimizer_of_the_base_protocol() -> None:
    def halve(updates: object, state: object, params: object = None) -> tuple:
        return tree.map(lambda u: u / 2, updates), state

    plain = GradientTransformation(lambda params: (), halve)
    two_halvings = chain(plain, plain)
    updates, _ = two_halvings.update(
        {"w": torch.tensor(4.0)}, two_halvings.init({"w": torch.tensor(0.0)}), grad_norm=torch.tensor(4.0)
    )
    assert updates["w"] == 1
    assert with_extra(two_halvings) is two_halvings
