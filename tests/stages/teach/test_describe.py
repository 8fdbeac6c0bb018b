"""Values as text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from pure.loss.grpo import PolicyLoss
from stages.teach.describe import LIMIT, count_numbers, describe_numbers, describe_shape


@pytest.mark.parametrize(
    ("value", "shape", "numbers"),
    [
        (torch.tensor([[1.23456, -2.0]]), "[1, 2] float32", "[[1.235, -2.0]]"),
        (torch.tensor(3), "[] int64", "3"),
        (torch.tensor([True]), "[1] bool", "[True]"),
        (torch.tensor([0.1], dtype=torch.bfloat16, requires_grad=True), "[1] bfloat16", "[0.1001]"),
        (
            torch.arange(40.0).view(4, 10),
            "[4, 10] float32",
            "[4, 10] float32: 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, …",
        ),
        (torch.empty(2, device="meta"), "[2] float32", "[2] float32"),
        (torch.empty(0, 3), "[0, 3] float32", "[]"),
        (np.array([1, 2]), "array [2] int64", "[1, 2]"),
        (np.float32(0.5), "array [] float32", "0.5"),
        (0.59814, "float", "0.5981"),
        (float("nan"), "float", "nan"),
        (True, "bool", "True"),
        (None, "None", "None"),
        ("a", "str", "'a'"),
        (b"a", "bytes", "b'a'"),
        (len, "function", "function"),
        (torch.float32, "torch.float32", "torch.float32"),
        ([], "list()", "[]"),
        ((1,), "tuple(int)", "(1,)"),
        ([1, 2, 3], "list(3 × int)", "[1, 2, 3]"),
        (list(range(9)), "list(9 × int)", "[0, 1, 2, 3, 4, 5, 6, 7, …]"),
        ({"a": [torch.zeros(1)]}, "{'a': list([1] float32)}", "{'a': [[0.0]]}"),
        (Counter("aa"), "{'a': int}", "{'a': 2}"),
        ({1}, "set(int)", "{1}"),
        (PolicyLoss(1.5, None), "PolicyLoss(sum=float, count=None)", "PolicyLoss(sum=1.5, count=None)"),
    ],
)
def test_values(value: Any, shape: str, numbers: str) -> None:
    assert describe_shape(value) == shape
    assert describe_numbers(value) == numbers


def test_a_tensor_inside_a_transform_has_a_shape_and_no_numbers() -> None:
    texts = []

    def note(x: torch.Tensor) -> torch.Tensor:
        texts.append((describe_shape(x), describe_numbers(x)))
        return x

    torch.vmap(note)(torch.zeros(2, 3))
    assert texts == [("[3] float32", "[3] float32")]


def test_a_long_text_is_cut() -> None:
    assert describe_numbers("a" * 1000) == "'" + "a" * (LIMIT - 2) + "…"


def test_numbers_are_counted() -> None:
    assert count_numbers({"a": torch.zeros(2, 3), "b": [1, "ab"]}) == 9
