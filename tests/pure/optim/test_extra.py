"""Optimizers of optax's base protocol, which take no further arguments."""

from __future__ import annotations

import torch

from pure import tree
from pure.optim.base import chain
from pure.optim.extra import with_extra
from pure.types import GradientTransformation


def test_an_optimizer_of_optaxs_base_protocol_is_called_without_extra() -> None:
    def halve(updates: object, state: object, params: object = None) -> tuple:
        return tree.map(lambda u: u / 2, updates), state

    plain = GradientTransformation(lambda params: (), halve)
    both = chain(plain, plain)
    updates, _ = both.update(
        {"w": torch.tensor(4.0)}, both.init({"w": torch.tensor(0.0)}), grad_norm=torch.tensor(4.0)
    )
    assert updates["w"] == 1
    assert with_extra(both) is both
