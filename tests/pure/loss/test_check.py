"""The checks of a loss's arguments; that every loss makes them is a law (`tests/laws/test_losses.py`)."""

from __future__ import annotations

import pytest
import torch

from pure.loss.check import RANGES, check_chunk, check_labels, check_range, expect, upcast


def test_letters_stand_for_one_length_and_dots_for_any_axes() -> None:
    expect("f", x=(torch.zeros(2, 3, 5), "... V", "float"), y=(torch.zeros(2, 3).long(), "...", "integer"))
    expect("f", x=(None, "B", "float?"), y=(torch.zeros(()), "", "number"))
    for y in (torch.zeros(3), torch.zeros(2, 3, 5), torch.zeros(())):
        with pytest.raises(ValueError, match=r"f: expected y \[\.\.\.\] with \.\.\. = \[2, 3\] as in x, got"):
            expect("f", x=(torch.zeros(2, 3, 5), "... V", "float"), y=(y, "...", "number"))
    with pytest.raises(ValueError, match=r"f: expected x \[B, B\], got \[2, 3\]"):
        expect("f", x=(torch.zeros(2, 3), "B B", "float"))


def test_dtypes_are_of_a_kind() -> None:
    for dtype, kinds in (
        (torch.float16, {"float", "number"}),
        (torch.int32, {"integer", "number"}),
        (torch.bool, {"bool"}),
        (torch.complex64, set()),
    ):
        for kind in ("float", "integer", "bool", "number"):
            if kind in kinds:
                expect("f", x=(torch.zeros(2, dtype=dtype), "B", kind))
            else:
                with pytest.raises(TypeError, match=f"of dtype {kind}, got {dtype}"):
                    expect("f", x=(torch.zeros(2, dtype=dtype), "B", kind))
    with pytest.raises(TypeError, match=r"expected x to be a tensor \[B\], got list"):
        expect("f", x=([1.0], "B", "float"))
    with pytest.raises(TypeError, match=r"expected x to be a tensor \[B\], got NoneType"):
        expect("f", x=(None, "B", "float"))
    with pytest.raises(TypeError, match=r"expected x \[B\] to be dense, got a tensor of torch.sparse"):
        expect("f", x=(torch.ones(2).to_sparse(), "B", "float"))
    with pytest.raises(TypeError, match=r"write mask.bool\(\)"):
        expect("f", mask=(torch.ones(2), "B", "bool"))


@pytest.mark.parametrize("bounds", RANGES)
def test_ranges(bounds: str) -> None:
    inside = {
        "above 0": 1e-9,
        "at least 0": 0,
        "at least 1": 1,
        "above 1": 1.5,
        "in [0, 1]": 1,
        "in [0, 1)": 0.5,
        "in [0, 0.5)": 0,
    }
    check_range("f", bounds, x=inside.get(bounds, -3.0), z=torch.tensor(-7.0))
    check_range("f", bounds, optional=True, x=None)
    for outside in (float("nan"), float("-inf"), 10**29, -1.0 if bounds != "finite" else float("inf")):
        with pytest.raises(ValueError, match="f: x must be"):
            check_range("f", bounds, x=outside)
    with pytest.raises(ValueError, match=r"one number or a 0-d tensor, got shape \[1\]"):
        check_range("f", bounds, x=torch.ones(1))
    for other in ("1", None, True):
        with pytest.raises(TypeError, match=f"a number or a 0-d tensor, got {type(other).__name__}"):
            check_range("f", bounds, x=other)


def test_tensors_are_on_one_device_but_for_single_numbers() -> None:
    there = torch.zeros(2, device="meta")
    expect("f", x=(there, "B", "float"), y=(torch.tensor(1.0), "", "float"))
    with pytest.raises(ValueError, match="f: expected y on meta as x is, got one on cpu"):
        expect("f", x=(there, "B", "float"), y=(torch.zeros(2), "B", "float"))


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, "2", 10**20])
def test_a_chunk_is_a_whole_number_of_at_least_one(chunk: object) -> None:
    check_chunk("f", 1)
    with pytest.raises((TypeError, ValueError), match="f: chunk must be"):
        check_chunk("f", chunk)


def test_the_first_label_that_is_no_word_is_named() -> None:
    check_labels("f", torch.tensor([[0, 4, -100]]), 5, -100)
    with pytest.raises(ValueError, match=r"in 0 .. 4, or -100 .* got 5 at \[1, 0\]"):
        check_labels("f", torch.tensor([[0, 4], [5, -1]]), 5, -100)


def test_only_narrow_numbers_are_widened() -> None:
    widened = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
    for dtype, widened_dtype in widened.items():
        assert upcast(torch.zeros(1, dtype=dtype)).dtype == widened_dtype
