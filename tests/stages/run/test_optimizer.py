"""Optimizer and schedule as the flags describe them."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from pure import tree
from pure.types import GradientTransformation, Schedule
from stages.run import optimizer
from stages.run.options.base import OptimizerName
from stages.run.options.pretrain import PretrainOptions


def flags(**changes: Any) -> PretrainOptions:
    return PretrainOptions(dtype="float32", device="cpu", **changes)


def optimizer_from_flags(options: PretrainOptions, schedule: Schedule) -> GradientTransformation:
    return optimizer.make_optimizer(
        options.optimizer,
        schedule,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        dtype=torch.float32,
        updates=100,
    )


def schedule_from_flags(options: PretrainOptions, updates: int) -> Schedule:
    return optimizer.build(options, updates, torch.float32).schedule


def test_every_optimizer_decays_weights_but_not_scales() -> None:
    params = {"layers": [{"w": torch.ones(2, 2)}], "norm": {"scale": torch.ones(2)}}
    zeros = tree.map(torch.zeros_like, params)
    for name in get_args(OptimizerName):
        transformation = optimizer_from_flags(
            flags(optimizer=name, weight_decay=0.5), lambda count: torch.tensor(0.1)
        )
        updates, _ = transformation.update(zeros, transformation.init(params), params)
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
def test_schedules_equal_rates_by_hand(schedule: Any, rates: dict[int, float]) -> None:
    """100 steps, a tenth of them warm-up, down to a tenth of the peak."""
    learning_rate = schedule_from_flags(flags(schedule=schedule, learning_rate=1.0, warmup=0.1), 100)
    for step, rate in rates.items():
        assert float(learning_rate(torch.tensor(step))) == pytest.approx(rate, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(("warmup", "first"), [(0, 1.0), (1, 0.0), (4.0, 0.0), (500, 0.0)])
def test_warmup_in_steps_sets_the_first_rate(schedule: Any, warmup: float, first: float) -> None:
    learning_rate = schedule_from_flags(flags(schedule=schedule, learning_rate=1.0, warmup=warmup), 20)
    assert float(learning_rate(torch.tensor(0))) == first
    if warmup == 4.0:
        assert float(learning_rate(torch.tensor(2))) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="--warmup: expected a share or a number of steps"):
        schedule_from_flags(flags(warmup=-1), 20)


def test_max_grad_norm_zero_disables_clipping() -> None:
    unclipped = optimizer_from_flags(
        flags(max_grad_norm=0.0, optimizer="sgd", weight_decay=0.0), lambda count: torch.tensor(1.0)
    )
    grads = {"w": torch.tensor([30.0, 40.0])}
    updates, _ = unclipped.update(grads, unclipped.init(grads), grads)
    assert updates["w"].norm() == pytest.approx(95.0, rel=1e-5)  # Nesterov: 1.9 times 50


def test_an_unknown_name_is_refused_and_not_replaced_by_another() -> None:
    schedule = schedule_from_flags(flags(), 10)
    with pytest.raises(ValueError, match=r"--optimizer: expected one of .*, got 'adam'"):
        optimizer_from_flags(flags(optimizer="adam"), schedule)
    with pytest.raises(ValueError, match="--schedule: expected cosine, linear, wsd or constant, got 'wave'"):
        schedule_from_flags(flags(schedule="wave"), 10)
