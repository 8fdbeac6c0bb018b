"""Values that numbered steps assign."""

from __future__ import annotations

import sys

import pytest
import torch

from stages.teach.tracer import StepTrace, Variable, trace_function


def scale(rows: list[torch.Tensor], factor: float = 2.0) -> list[torch.Tensor]:
    """Scales rows.

    Example:
        >>> scale([torch.ones(3)], -1.0)
        Traceback (most recent call last):
        ValueError: factor
        >>> scale([torch.ones(2), torch.zeros(2)])
        [tensor([20., 20.]), tensor([0., 0.])]
        >>> scale([torch.ones(1)], 3.0)
        [tensor([30.])]
        >>> scale([torch.ones(1)], 4.0)
        [tensor([40.])]
    """
    # 1. Check.
    if factor < 0:
        raise ValueError("factor")

    def leaf(row: torch.Tensor) -> torch.Tensor:
        # 2. One row.
        scaled = row * factor
        return scaled

    # 3. All rows.
    result: list[torch.Tensor] = []
    for row in rows:
        # 4. Append in place.
        result.append(leaf(row))
    # 5. Never.
    if len(result) > 2:
        # 6. Too many.
        result = result[:2]
    # 7. In place.
    for each in result:
        each.add_(0.0)
        each.mul_(10.0)
    return result


def fail(x: float) -> float:
    """Fails."""
    # 1. Double.
    y = x + x
    # 2. Divide.
    return y / 0.0


@pytest.fixture(scope="module")
def steps() -> dict[int, StepTrace]:
    """The steps of `scale` in its example."""
    before = sys.gettrace()
    found, error = trace_function(sys.modules[__name__], "scale")
    assert error == ""
    assert sys.gettrace() is before
    return {step.number: step for step in found}


def test_the_last_of_the_smallest_calls_that_return_is_shown(steps: dict[int, StepTrace]) -> None:
    arguments = (Variable("rows", "list([1] float32)", "[[1.0]]"), Variable("factor", "float", "4.0"))
    assert {step.arguments for step in steps.values() if step.visits} == {arguments}


def test_a_step_shows_what_it_assigned_or_changed(steps: dict[int, StepTrace]) -> None:
    assert list(steps) == [1, 2, 3, 4, 5, 6, 7]
    assert steps[1].variables == (Variable("leaf", "function", "function"),)
    assert steps[2].variables == (
        Variable("scaled", "[1] float32", "[4.0]"),
        Variable("", "[1] float32", "[4.0]"),
    )
    assert steps[3].variables[0] == Variable("result", "list()", "[]")
    assert steps[4].variables == (Variable("result", "list([1] float32)", "[[4.0]]"),)
    assert steps[5] == StepTrace(5, 1, (), steps[1].arguments)
    assert steps[6] == StepTrace(6, 0, (), ())
    assert Variable("result", "list([1] float32)", "[[40.0]]") in steps[7].variables


def test_an_example_that_fails_gives_the_steps_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fail, "__doc__", ">>> fail(1.0)\n")
    found, error = trace_function(sys.modules[__name__], "fail")
    assert error == "ZeroDivisionError: float division by zero"
    assert found[0].variables == (Variable("y", "float", "2.0"),)
    assert found[1].variables == ()
