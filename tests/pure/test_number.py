"""Numbers, 0-d tensors, and everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure.number import is_int, require_number


@pytest.mark.parametrize("value", [0, -1, 2**70])
def test_ints(value: int) -> None:
    assert is_int(value)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, torch.tensor(1)])
def test_others_are_no_ints(value: object) -> None:
    assert not is_int(value)


@pytest.mark.parametrize("value", [1, 0.5, float("nan"), np.float32(2.0), np.int64(3)])
def test_plain_numbers(value: float) -> None:
    assert require_number("who", "rate", value)


def test_a_0d_tensor_is_not_looked_into() -> None:
    assert not require_number("who", "rate", torch.tensor(float("nan")))


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [0.1]])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^who: rate must be a number or a 0-d tensor, got "):
        require_number("who", "rate", value)


def test_a_tensor_with_axes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^who: rate must be one number or a 0-d tensor, got shape \[2\]"):
        require_number("who", "rate", torch.ones(2))
