"""Optimizer and schedule as the flags describe them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pure import tree
from pure.types import GradientTransformation, Schedule
from stages.run import optimizer
from stages.run.options.pretrain import PretrainOptions


def flags(**changes: Any) -> PretrainOptions:
    return PretrainOptions(dtype="float32", device="cpu", **changes)


def optimizer_of(options: PretrainOptions, schedule: Schedule) -> GradientTransformation:
    return optimizer.make_optimizer(
        options.optimizer,
        schedule,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        dtype=torch.float32,
    )


def schedule_of(options: PretrainOptions, updates: int) -> Schedule:
    return optimizer.build(options, updates, torch.float32).schedule


def test_decay_acts_whatever_the_optimizer() -> None:
    params = {"layers": [{"w": torch.ones(2, 2)}], "norm": {"scale": torch.ones(2)}}
    none = tree.map(torch.zeros_like, params)
    for name in ("adamw", "nadamw", "lion", "muon", "adafactor", "lamb", "sgd"):
        made = optimizer_of(flags(optimizer=name, weight_decay=0.5), lambda count: torch.tensor(0.1))
        updates, _ = made.update(none, made.init(params), params)
        assert (updates["layers"][0]["w"] < 0).all()
        assert not updates["norm"]["scale"].any()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 100: 1.0}),
        ("linear", {0: 0.0, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("cosine", {0: 0.0, 10: 1.0, 55: 0.55, 100: 0.1}),
        ("wsd", {0: 0.0, 10: 1.0, 79: 1.0, 90: 0.55, 100: 0.1}),
    ],
)
def test_schedules_by_hand(schedule: Any, rates: dict[int, float]) -> None:
    """100 steps, a tenth of them warm-up, down to a tenth of the peak."""
    made = schedule_of(flags(schedule=schedule, learning_rate=1.0, warmup=0.1), 100)
    for step, rate in rates.items():
        assert float(made(torch.tensor(step))) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(("warmup", "first"), [(0, 1.0), (1, 0.0), (4.0, 0.0), (500, 0.0)])
def test_warm_up_in_steps_or_not_at_all(schedule: Any, warmup: float, first: float) -> None:
    made = schedule_of(flags(schedule=schedule, learning_rate=1.0, warmup=warmup), 20)
    assert float(made(torch.tensor(0))) == first
    if warmup == 4.0:
        assert float(made(torch.tensor(2))) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="--warmup: expected a share or a number of steps"):
        schedule_of(flags(warmup=-1), 20)


def test_without_a_norm_gradients_are_left_as_they_are() -> None:
    free = optimizer_of(
        flags(max_grad_norm=0.0, optimizer="sgd", weight_decay=0.0), lambda count: torch.tensor(1.0)
    )
    grads = {"w": torch.tensor([30.0, 40.0])}
    updates, _ = free.update(grads, free.init(grads), grads)
    assert updates["w"].norm() == pytest.approx(95.0, rel=1e-5)  # Nesterov: 1.9 times 50
