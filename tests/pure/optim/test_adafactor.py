"""`pure.optim.adafactor`: size of the state, and optional transformations (values: see tests/laws)."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree


def test_the_factored_state_of_a_matrix_has_one_number_per_row_and_column() -> None:
    """Every leaf has a row, a column and a full moment; those that it does not use have one element."""
    params = {"w": torch.zeros(200, 300), "b": torch.zeros(300)}
    assert tree.count(optim.adafactor(0.1).init(params)) == 1 + (200 + 300 + 1) + (1 + 1 + 300)
    assert tree.count(optim.adafactor(0.1, factored=False).init(params)) == 1 + 2 * 2 + 200 * 300 + 300


def test_optional_transformations_of_the_chain() -> None:
    params = torch.ones(3)
    shortest = optim.adafactor(clipping_threshold=None, multiply_by_parameter_scale=False)
    assert [type(s).__name__ for s in shortest.init(params)] == ["FactoredState", "EmptyState"]
    longest = optim.adafactor(optim.constant_schedule(0.1), momentum=0.9, weight_decay_rate=0.01)
    names = [type(s).__name__ for s in longest.init(params)]
    assert names[2:5] == ["ScaleByScheduleState", "EmptyState", "EmaState"]


def test_scaling_the_gradients_does_not_change_the_update() -> None:
    opt, params = optim.adafactor(0.1, 2), torch.rand(4, 5) + 1
    g = torch.linspace(-1, 1, 20).reshape(4, 5) + 0.01
    small, large = (opt.update(g * factor, opt.init(params), params)[0] for factor in (1e-3, 1e3))
    torch.testing.assert_close(small, large)


def test_a_negative_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="adafactor: learning_rate must be a finite number >= 0, got -1"):
        optim.adafactor(-1.0)
