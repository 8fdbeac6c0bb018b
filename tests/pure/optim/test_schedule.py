"""`pure.optim.schedule` against optax, at 132 step counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from pure import optim

COUNTS = np.arange(-2, 130, dtype=np.int32)

BUILDERS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda o: lambda c: o.constant_schedule(0.3)(c) + 0 * c,
    "polynomial": lambda o: o.polynomial_schedule(0.3, 0.01, 2, 70, 10),
    "polynomial root": lambda o: o.polynomial_schedule(0.3, 0.01, 0.5, 70),
    "linear": lambda o: o.linear_schedule(0.0, 0.3, 50),
    "linear later": lambda o: o.linear_schedule(1.0, 0.3, 50, 20),
    "cosine": lambda o: o.cosine_decay_schedule(0.3, 90),
    "cosine alpha": lambda o: o.cosine_decay_schedule(0.3, 90, 0.1, 1.5),
    "join": lambda o: o.join_schedules(
        [o.linear_schedule(0.0, 1.0, 10), o.linear_schedule(1.0, 2.0, 5), o.cosine_decay_schedule(3.0, 40)],
        [10, 25],
    ),
}
"""Name of a case -> a function that builds its schedule, given `optim` or `optax`."""


@pytest.mark.parametrize("name", BUILDERS)
def test_schedule_equals_optax(name: str) -> None:
    theirs = np.asarray(BUILDERS[name](optax)(jnp.asarray(COUNTS)))
    ours = BUILDERS[name](optim)(torch.tensor(COUNTS))
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_schedule_takes_one_count_as_tensor_or_int(name: str) -> None:
    schedule = BUILDERS[name](optim)
    values = schedule(torch.tensor(COUNTS))
    for i in (0, 2, 40, 131):
        value = schedule(torch.tensor(COUNTS[i]))
        assert (value.shape, value.dtype) == ((), torch.float32)
        torch.testing.assert_close(value, values[i], rtol=1e-6, atol=1e-8)
        assert torch.equal(value, schedule(int(COUNTS[i])))


def test_large_counts_do_not_overflow() -> None:
    last = torch.tensor(2**31 - 1, dtype=torch.int32)
    assert optim.cosine_decay_schedule(1.0, 2**31 - 1)(last).item() == pytest.approx(0.0, abs=1e-6)
    assert optim.linear_schedule(1.0, 0.0, 100, 50)(last).item() == 0.0


def test_arguments_of_a_schedule_may_be_tensors() -> None:
    one = torch.tensor(1.0)
    assert optim.linear_schedule(one, one * 3, 2)(1).item() == 2.0
    assert optim.constant_schedule(one)(1).item() == 1.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: optim.linear_schedule(1.0, 0.0, 0), "transition_steps must be an int > 0 .*got 0"),
        (lambda: optim.linear_schedule(1.0, 0.0, 5, -1), "transition_begin must be an int >= 0"),
        (
            lambda: optim.cosine_decay_schedule(1.0, -3),
            "cosine_decay_schedule: decay_steps must be an int > 0",
        ),
        (lambda: inspect.unwrap(optim.cosine_decay_schedule)(1.0, True), "decay_steps must be an int > 0"),
        (
            lambda: optim.join_schedules([optim.constant_schedule(1.0)], [3]),
            "1 schedules need 0 boundaries, got 1",
        ),
        (lambda: optim.join_schedules([], []), "expected at least one schedule"),
        (
            lambda: optim.join_schedules([optim.constant_schedule(1.0)] * 3, [5, 3]),
            r"boundaries must ascend, got \[5, 3\]",
        ),
    ],
)
def test_bad_arguments_are_refused(build: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
