"""`pure.optim.warmup`: schedules with a warm-up, against optax where it has the same one, else against their
formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure import optim

COUNTS = np.arange(0, 130, dtype=np.int32)
CYCLES = [
    {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 5, "decay_steps": 30, "end_value": 0.1},
    {"init_value": 0.1, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 60},
    {"init_value": 0.0, "peak_value": 0.2, "warmup_steps": 3, "decay_steps": 20, "exponent": 2.0},
]

BUILDERS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda o: o.warmup_constant_schedule(0.0, 0.3, 20),
    "cosine": lambda o: o.warmup_cosine_decay_schedule(0.1, 1.0, 20, 100, 0.05, 1.3),
    "cosine without warm-up": lambda o: o.warmup_cosine_decay_schedule(0.0, 1.0, 0, 100),
    "cosine from zero to zero": lambda o: o.warmup_cosine_decay_schedule(0.0, 0.0, 2, 100),
    "restarts": lambda o: o.sgdr_schedule(CYCLES),
}
"""Name of a case -> a function that builds its schedule, given `optim` or `optax`."""


@pytest.mark.parametrize("name", BUILDERS)
def test_schedule_equals_optax(name: str) -> None:
    theirs = np.asarray(BUILDERS[name](optax)(jnp.asarray(COUNTS)))
    np.testing.assert_allclose(
        BUILDERS[name](optim)(torch.tensor(COUNTS)).numpy(), theirs, rtol=1e-6, atol=1e-7
    )


def test_warmup_linear_decay_equals_its_formula() -> None:
    step = COUNTS.astype(float)
    decay = 1 - 0.8 * np.clip((step - 10) / 90, 0, 1)
    expected = np.where(step < 10, 0.1 + 0.9 * step / 10, decay)
    schedule = optim.warmup_linear_decay_schedule(0.1, 1.0, 10, 100, 0.2)
    np.testing.assert_allclose(schedule(torch.tensor(COUNTS)).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "curve"),
    [("linear", lambda x: x), ("cosine", lambda x: (1 - np.cos(np.pi * x)) / 2), ("sqrt", np.sqrt)],
)
def test_wsd_schedule_equals_its_formula(shape: str, curve: Callable) -> None:
    step = COUNTS.astype(float)
    decay = 2 + (0.5 - 2) * curve(np.clip((step - 60) / 40, 0, 1))
    expected = np.where(step < 10, 2 * step / 10, decay)
    schedule = optim.wsd_schedule(0.0, 2.0, 10, 50, 40, 0.5, shape=shape)
    np.testing.assert_allclose(schedule(torch.tensor(COUNTS)).numpy(), expected, rtol=1e-6)
    without_warmup = optim.wsd_schedule(0.0, 2.0, 0, 0, 40, shape=shape)
    assert without_warmup(0).item() == 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optim.warmup_cosine_decay_schedule(0.0, 1.0, 100, 100),
            "greater than warmup_steps, got decay_steps 100 and warmup_steps 100.*give decay_steps=200",
        ),
        (lambda: optim.warmup_linear_decay_schedule(0.0, 1.0, -1, 10), "warmup_steps must be an int >= 0"),
        (lambda: optim.warmup_linear_decay_schedule(0.0, 1.0, 0, 0), "decay_steps must be an int > 0"),
        (
            lambda: optim.warmup_constant_schedule(0.0, 1.0, -1),
            "warmup_constant_schedule: warmup_steps must be an int",
        ),
        (lambda: optim.wsd_schedule(0.0, 1.0, 1, 1, 0), "wsd_schedule: decay_steps must be an int > 0"),
        (lambda: optim.wsd_schedule(0.0, 1.0, 1, -1, 5), "stable_steps must be an int >= 0"),
        (
            lambda: optim.wsd_schedule(0.0, 1.0, 1, 1, 5, shape="exp"),
            "shape must be one of linear, cosine, sqrt",
        ),
        (lambda: optim.sgdr_schedule([]), "at least one cycle"),
    ],
)
def test_bad_arguments_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("peak", [0.5, torch.tensor(0.5)])
def test_the_cosine_goes_from_the_peak_to_the_end_value(peak: float | torch.Tensor) -> None:
    schedule = optim.warmup_cosine_decay_schedule(0.0, peak, 10, 50, 0.05)
    for count, expected in ((0, 0.0), (5, 0.25), (10, 0.5), (30, 0.275), (50, 0.05), (90, 0.05)):
        assert float(schedule(torch.tensor(count))) == pytest.approx(expected, abs=1e-6)


def test_a_peak_of_zero_gives_zeros() -> None:
    schedule = optim.warmup_cosine_decay_schedule(0.0, 0.0, 10, 50, 0.05)
    assert [float(schedule(torch.tensor(count))) for count in (0, 10, 30, 50)] == [0.0] * 4
