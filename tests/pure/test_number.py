"""`is_int` and `require_number`: Python and NumPy numbers, 0-d tensors, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure.number import is_int, require_number


@pytest.mark.parametrize("value", [0, -1, 2**70])
def test_is_int_accepts_ints_of_any_size(value: int) -> None:
    assert is_int(value)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, torch.tensor(1)])
def test_is_int_refuses_bools_floats_and_tensors(value: object) -> None:
    assert not is_int(value)


@pytest.mark.parametrize("value", [1, 0.5, float("nan"), np.float32(2.0), np.int64(3)])
def test_require_number_is_true_for_python_and_numpy_numbers(value: float) -> None:
    assert require_number("caller", "rate", value)


def test_require_number_is_false_for_a_0_d_tensor_of_any_value() -> None:
    assert not require_number("caller", "rate", torch.tensor(float("nan")))


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [0.1]])
def test_require_number_refuses_other_types(value: object) -> None:
    with pytest.raises(TypeError, match=r"^caller: rate must be a number or a 0-d tensor, got "):
        require_number("caller", "rate", value)


def test_require_number_refuses_a_tensor_with_axes() -> None:
    with pytest.raises(
        ValueError, match=r"^caller: rate must be one number or a 0-d tensor, got shape \[2\]"
    ):
        require_number("caller", "rate", torch.ones(2))
