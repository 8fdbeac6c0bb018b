"""`early_stopping`: patience counts validations without improvement; its state round-trips through JSON."""

from __future__ import annotations

import json
import math

import pytest

from stages.run.early_stopping import BestValidation, from_json, observe, to_json


def observe_all(*values: float) -> BestValidation:
    state = BestValidation()
    for step, value in enumerate(values, 1):
        state = observe(state, step, value)
    return state


def test_neither_an_equal_value_nor_nan_is_an_improvement() -> None:
    """The state is (best, best_step, since)."""
    assert observe_all(2.0, 2.0, math.nan) == (2.0, 1, 2)
    assert observe_all(math.nan) == (math.inf, -1, 1)
    assert observe_all(math.nan, 5.0) == (5.0, 2, 0)


@pytest.mark.parametrize("values", [(), (math.nan,), (0.1 + 0.2,), (1e-300, 2.0)])
def test_the_json_round_trip_is_exact(values: tuple[float, ...]) -> None:
    text = json.dumps(to_json(observe_all(*values)), allow_nan=False)
    assert from_json(json.loads(text)) == observe_all(*values)


def test_a_checkpoint_without_a_best_validation_starts_anew() -> None:
    assert from_json(None) == BestValidation()


@pytest.mark.parametrize(
    "fields", [{}, {"best": "x", "best_step": 1, "since": 0}, [1], 3, {"best": "1", "best_step": None}]
)
def test_invalid_fields_are_refused(fields: object) -> None:
    with pytest.raises(ValueError, match="expected best, best_step and since"):
        from_json(fields)  # type: ignore[arg-type]
