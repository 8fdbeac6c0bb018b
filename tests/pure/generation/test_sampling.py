"""`Sampling`: an immutable value with defaults; `_replace` returns a changed one."""

from __future__ import annotations

import pytest

from pure.generation.controls import LIMITS
from pure.generation.sampling import Sampling


def test_the_defaults_sample_the_models_own_distribution() -> None:
    """Only length and temperature are set: nothing is truncated, penalised or stopped."""
    length, temperature, *rest, stop_tokens = Sampling()
    assert (length, temperature, stop_tokens) == (64, 1.0, ())
    assert set(rest) == {None}


def test_every_sampling_parameter_has_a_range_in_limits() -> None:
    assert set(Sampling._fields) - set(LIMITS) == {"max_new_tokens", "vocabulary", "stop_tokens"}


def test_sampling_is_immutable_and_compared_by_value() -> None:
    greedy = Sampling(temperature=0.0)
    assert greedy._replace(temperature=1.0) == Sampling()
    with pytest.raises(AttributeError):
        greedy.temperature = 1.0  # type: ignore[misc]
