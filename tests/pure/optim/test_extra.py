"""`pure.optim.extra`: `chain` accepts optimizers whose `update` takes no keyword arguments (optax's base
protocol)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
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


def take_keywords(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple:
    return updates, state


def take_none(updates: Any, state: Any, params: Any = None) -> tuple:
    return updates, state


class Update:
    """An update that is an object with a call."""

    def __call__(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple:
        return updates, state


def pass_on(update: Callable) -> Callable:
    """A wrapper that takes everything and has the signature of what it wraps."""
    return functools.wraps(update)(lambda *args, **kwargs: update(*args, **kwargs))


@pytest.mark.parametrize(
    ("update", "takes"),
    [
        (take_keywords, True),
        (take_none, False),
        (functools.partial(functools.partial(take_keywords)), True),
        (functools.partial(take_none), False),
        (pass_on(take_keywords), True),
        (pass_on(take_none), False),
        (functools.partial(pass_on(take_none)), False),
        (Update(), True),
    ],
)
def test_keyword_arguments_reach_only_an_update_that_takes_them(update: Callable, takes: bool) -> None:
    plain = GradientTransformation(lambda params: (), update)
    adapted = with_extra(plain)
    assert (adapted is plain) == takes
    assert adapted.update(torch.tensor(4.0), (), grad_norm=torch.tensor(4.0))[0] == 4
