"""Adafactor: the memory of its state, and its links."""

from __future__ import annotations

import pytest
import torch

from pure import optim, tree


def test_a_matrix_needs_rows_and_columns_only() -> None:
    params = {"w": torch.zeros(200, 300), "b": torch.zeros(300)}
    assert tree.count(optim.adafactor(0.1).init(params)) == 1 + (200 + 300 + 1) + (1 + 1 + 300)
    assert tree.count(optim.adafactor(0.1, factored=False).init(params)) == 1 + 2 * 2 + 200 * 300 + 300


def test_links_are_optional() -> None:
    params = torch.ones(3)
    least = optim.adafactor(clipping_threshold=None, multiply_by_parameter_scale=False)
    assert [type(s).__name__ for s in least.init(params)] == ["FactoredState", "EmptyState"]
    most = optim.adafactor(optim.constant_schedule(0.1), momentum=0.9, weight_decay_rate=0.01)
    names = [type(s).__name__ for s in most.init(params)]
    assert names[2:5] == ["ScaleByScheduleState", "EmptyState", "EmaState"]


def test_the_size_of_gradients_does_not_matter() -> None:
    opt, params = optim.adafactor(0.1, 2), torch.rand(4, 5) + 1
    g = torch.linspace(-1, 1, 20).reshape(4, 5) + 0.01
    small, large = (opt.update(g * size, opt.init(params), params)[0] for size in (1e-3, 1e3))
    torch.testing.assert_close(small, large)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="adafactor: learning_rate must be a finite number >= 0, got -1"):
        optim.adafactor(-1.0)
