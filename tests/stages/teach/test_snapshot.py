"""Variables that changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stages.teach.snapshot import copy_variables, list_changed


def write_part(value: Any) -> None:
    """Write into the first part of a container."""
    value[0] = 5


@pytest.mark.parametrize(
    ("value", "write"),
    [
        (torch.tensor([1.0, float("nan")]), write_part),
        (torch.zeros(2, requires_grad=True), lambda x: x.detach().add_(1)),
        (torch.zeros(2), lambda x: x.resize_(1)),
        (np.array([1.0, float("nan")]), write_part),
        ([[1], 2], write_part),
        ([[1], 2], lambda x: x[0].append(1)),
        ([1.0], lambda x: x.append(2.0)),
        (({"a": [torch.zeros(1)]},), lambda x: x[0]["a"][0].add_(1)),
        ({"a": 1}, lambda x: x.update(b=2)),
        (Counter("a"), lambda x: x.update("a")),
        ({1, 2}, lambda x: x.add(3)),
        (bytearray(b"ab"), write_part),
    ],
)
def test_a_write_into_an_object_is_seen(value: Any, write: Callable[[Any], Any]) -> None:
    variables = {"x": value, "same": [1, torch.tensor([float("nan")]), np.array(["a"]), object(), None]}
    before = copy_variables(variables)
    assert list_changed(before, variables) == []
    write(value)
    assert list_changed(before, variables) == ["x"]


def test_another_object_of_the_same_value_is_a_change() -> None:
    before = copy_variables({"x": torch.zeros(1), "y": 0.5})
    assert list_changed(before, {"x": torch.zeros(1), "y": float("0.5")}) == ["x", "y"]


def test_a_tensor_inside_a_transform_is_compared_by_object() -> None:
    found = []

    def note(x: torch.Tensor) -> torch.Tensor:
        before = copy_variables({"x": x})
        found.append((list_changed(before, {"x": x}), list_changed(before, {"x": x + 1})))
        return x

    torch.vmap(note)(torch.zeros(2))
    assert found == [([], ["x"])]
