"""Sampling: one value with defaults, that changes by `_replace` and never by itself."""

from __future__ import annotations

import pytest

from pure.generation.controls import LIMITS
from pure.generation.sampling import Sampling


def test_the_defaults_sample_the_models_own_distribution() -> None:
    """Only length and temperature are set: nothing is truncated, penalised or stopped."""
    length, temperature, *rest, stop_tokens = Sampling()
    assert (length, temperature, stop_tokens) == (64, 1.0, ())
    assert set(rest) == {None}


def test_every_number_has_a_range() -> None:
    assert set(Sampling._fields) - set(LIMITS) == {"max_new_tokens", "vocabulary", "stop_tokens"}


def test_it_is_a_value() -> None:
    greedy = Sampling(temperature=0.0)
    assert greedy._replace(temperature=1.0) == Sampling()
    with pytest.raises(AttributeError):
        greedy.temperature = 1.0  # type: ignore[misc]
