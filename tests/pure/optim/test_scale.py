"""The last link: rates, signs and counts."""

from __future__ import annotations

import inspect

import pytest
import torch

from pure import optim
from pure.optim.scale import schedule_value

G = torch.tensor([2.0, -4.0])


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5), optim.constant_schedule(0.5)])
def test_the_sign_is_flipped_by_default(rate: object) -> None:
    down, up = optim.scale_by_learning_rate(rate), optim.scale_by_learning_rate(rate, flip_sign=False)
    assert down.update(G, down.init(G))[0].tolist() == [-1.0, 2.0]
    assert up.update(G, up.init(G))[0].tolist() == [1.0, -2.0]


def test_no_rate_is_the_identity() -> None:
    opt = optim.scale_by_learning_rate(None)
    assert opt.update(G, opt.init(G)) == (G, optim.EmptyState())


def test_a_schedule_sees_the_number_of_updates_before() -> None:
    opt = optim.scale_by_schedule(optim.linear_schedule(0.0, 4.0, 4))
    state, seen = opt.init(G), []
    for _ in range(3):
        updates, state = opt.update(G, state)
        seen.append(updates[0].item())
    assert seen == [0.0, 2.0, 4.0]


def test_narrow_leaves_stay_narrow_and_round_once() -> None:
    g = torch.tensor([3.0], dtype=torch.bfloat16)
    for opt in (
        optim.scale(1e-3),
        optim.scale(torch.tensor(1e-3)),
        optim.scale_by_schedule(lambda count: 1e-3),
    ):
        updates, _ = opt.update(g, opt.init(g))
        assert updates.item() == torch.tensor(3e-3, dtype=torch.bfloat16).item()


def test_schedule_value() -> None:
    count = torch.tensor(1, dtype=torch.int32)
    assert schedule_value(0.5, None) == 0.5
    assert schedule_value(optim.linear_schedule(0.0, 1.0, 2), count).item() == 0.5


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="learning_rate must be a finite number >= 0, got -1"):
        optim.scale_by_learning_rate(-1)
    for rate in ("a", [0.1]):
        with pytest.raises(TypeError, match=r"learning_rate must be a number or a 0-d tensor, got"):
            inspect.unwrap(optim.scale_by_learning_rate)(rate)
