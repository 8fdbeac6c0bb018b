"""Checks of hyperparameters: numbers of Python or NumPy in range, 0-d tensors, schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pure import optim
from pure.optim import check


@pytest.mark.parametrize("value", [-0.1, 1.0, 2, np.float32(2.0), np.float64(-0.5), float("nan")])
def test_fractions_are_checked(value: float) -> None:
    with pytest.raises(ValueError, match=rf"who: b1 must be in \[0, 1\), got {value}"):
        check.check_fraction("who", b1=value)


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), np.float32(-2.0), np.int64(-1)])
def test_rates_are_checked(value: float) -> None:
    with pytest.raises(ValueError, match=f"who: rate must be a finite number >= 0, got {value}"):
        check.check_not_negative("who", rate=value)


@pytest.mark.parametrize("value", ["float32", torch.int32])
def test_dtypes_are_checked(value: object) -> None:
    with pytest.raises(TypeError, match="who: mu_dtype must be None or a floating"):
        check.check_dtype("who", mu_dtype=value)


def test_tensors_and_schedules_pass_the_checks_and_none_where_it_means_something() -> None:
    check.check_fraction("who", b1=torch.tensor(2.0), b2=np.float32(0.5))
    check.check_not_negative("who", rate=torch.tensor(-1.0), schedule=optim.constant_schedule(1.0))
    check.check_not_negative("who", optional=True, rate=None)
    check.check_number("who", factor=-3, other=torch.tensor(float("nan")))
    check.check_dtype("who", mu_dtype=None, other=torch.bfloat16)


MADE: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("learning_rate", lambda x: optim.adamw(x)),
    ("learning_rate", lambda x: optim.muon(x)),
    ("b1", lambda x: optim.lion(0.1, b1=x)),
    ("eps", lambda x: optim.adam(0.1, eps=x)),
    ("weight_decay", lambda x: optim.adamw(0.1, weight_decay=x)),
    ("decay", lambda x: optim.sgd(0.1, momentum=x)),
    ("decay", lambda x: optim.ema(x)),
    ("max_norm", lambda x: optim.clip_by_global_norm(x)),
    ("max_delta", lambda x: optim.clip(x)),
    ("consistent_rms", lambda x: optim.muon(0.1, consistent_rms=x)),
    ("step_size", lambda x: optim.scale(x)),
    ("atol", lambda x: optim.reduce_on_plateau(atol=x)),
)


BAD = ("0.1", [0.1], 1j, True, torch.ones(1), float("nan"))


@pytest.mark.parametrize(("name", "make"), MADE)
@pytest.mark.parametrize("value", BAD)
def test_every_optimizer_refuses_non_numbers_by_name(name: str, make: Callable, value: Any) -> None:
    """The error is raised at the call, not by torch at the first update. (Under the tests the types of
    parameters are checked before.)"""
    with pytest.raises((TypeError, ValueError), match=rf"^\w+: {name} must be|typechecking parameter '\w+'"):
        make(value)


@pytest.mark.parametrize("value", BAD)
def test_every_check_refuses_non_numbers(value: Any) -> None:
    for one in (check.check_fraction, check.check_not_negative, check.check_number):
        with pytest.raises((TypeError, ValueError), match=r"^who: rate must be"):
            one("who", rate=value)
    with pytest.raises(TypeError, match=r"^who: rate must be a number or a 0-d tensor, got NoneType"):
        check.check_not_negative("who", rate=None)


def test_a_dtype_that_nothing_would_use_is_refused_too() -> None:
    with pytest.raises(TypeError, match="accumulator_dtype"):
        optim.sgd(0.1, accumulator_dtype="bfloat16")  # type: ignore[arg-type]
