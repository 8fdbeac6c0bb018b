"""`pure.optim.check`: hyperparameters are numbers of Python or NumPy in range, 0-d tensors or schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pure import optim
from pure.optim import check


@pytest.mark.parametrize("value", [-0.1, 1.0, 2, np.float32(2.0), np.float64(-0.5), float("nan")])
def test_a_fraction_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"caller: b1 must be in \[0, 1\), got {value}"):
        check.check_fraction("caller", b1=value)


@pytest.mark.parametrize("value", [-1e-3, float("nan"), float("inf"), np.float32(-2.0), np.int64(-1)])
def test_a_rate_that_is_negative_or_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"caller: rate must be a finite number >= 0, got {value}"):
        check.check_not_negative("caller", rate=value)


@pytest.mark.parametrize("value", ["float32", torch.int32])
def test_a_dtype_that_is_not_floating_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="caller: mu_dtype must be None or a floating"):
        check.check_dtype("caller", mu_dtype=value)


def test_tensors_schedules_and_an_optional_none_are_accepted() -> None:
    check.check_fraction("caller", b1=torch.tensor(2.0), b2=np.float32(0.5))
    check.check_not_negative("caller", rate=torch.tensor(-1.0), schedule=optim.constant_schedule(1.0))
    check.check_not_negative("caller", optional=True, rate=None)
    check.check_number("caller", factor=-3, other=torch.tensor(float("nan")))
    check.check_dtype("caller", mu_dtype=None, other=torch.bfloat16)


# (name of a hyperparameter in the message, a call that gives it a value)
HYPERPARAMETERS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
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


NOT_A_NUMBER = ("0.1", [0.1], 1j, True, torch.ones(1), float("nan"))


@pytest.mark.parametrize(("name", "make"), HYPERPARAMETERS)
@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_every_optimizer_names_a_hyperparameter_that_is_no_number(
    name: str, make: Callable, value: Any
) -> None:
    """The call raises, not the first update. (In tests the check of types in signatures may raise before.)"""
    with pytest.raises((TypeError, ValueError), match=rf"^\w+: {name} must be|typechecking parameter '\w+'"):
        make(value)


@pytest.mark.parametrize("value", NOT_A_NUMBER)
def test_every_check_refuses_a_value_that_is_no_number(value: Any) -> None:
    for check_value in (check.check_fraction, check.check_not_negative, check.check_number):
        with pytest.raises((TypeError, ValueError), match=r"^caller: rate must be"):
            check_value("caller", rate=value)
    with pytest.raises(TypeError, match=r"^caller: rate must be a number or a 0-d tensor, got NoneType"):
        check.check_not_negative("caller", rate=None)


def test_a_bad_accumulator_dtype_is_refused_even_without_momentum() -> None:
    with pytest.raises(TypeError, match="accumulator_dtype"):
        optim.sgd(0.1, accumulator_dtype="bfloat16")  # type: ignore[arg-type]
