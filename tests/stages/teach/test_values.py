"""`stages.teach.values`: copies share nothing, and each kind of difference has its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from stages.teach import messages
from stages.teach.values import copy_value, describe_value, find_mismatch, list_tensors


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Node:
    weight: torch.Tensor
    name: str = "n"


class Same(torch.Tensor):
    """Compares equal to anything."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.isclose:
            return torch.ones(args[0].shape, dtype=torch.bool)
        return super().__torch_function__(function, types, args, kwargs or {})


def make_equal(kind: type) -> Any:
    """Make a value whose class has the name of another, and compares equal to anything."""
    equal = {"__eq__": lambda self, other: True, "__rsub__": lambda self, other: 0.0, "__hash__": None}
    return type(kind.__name__, (kind,), equal)()


@pytest.mark.parametrize("expected", [1.0, 2, "x", [1], {"a": 1}, (1,)])
def test_a_class_that_compares_equal_to_anything_differs(expected: Any) -> None:
    found = find_mismatch(expected, make_equal(type(expected)), "result")
    assert found is not None
    assert found.kind == "dtype"


def test_a_subclass_of_a_tensor_or_an_array_differs() -> None:
    array = np.ones(2).view(type("ndarray", (np.ndarray,), {"__array_function__": lambda *rest: True}))
    for expected, got in ((torch.zeros(2), torch.ones(2).as_subclass(Same)), (np.zeros(2), array)):
        found = find_mismatch(expected, got, "result")
        assert found is not None
        assert found.kind == "dtype"
    assert (
        find_mismatch(torch.ones(2), torch.nn.Parameter(torch.ones(2), requires_grad=False), "result") is None
    )


def test_a_copy_shares_no_storage_and_keeps_what_was_one_object() -> None:
    x = torch.ones(3, requires_grad=True)
    value = {"a": [x, Pair(x, 1)], "b": Node(torch.zeros(2)), "c": np.ones(2)}
    copied = copy_value(value)
    assert find_mismatch(value, copied, "value") is None
    assert copied["a"][0] is copied["a"][1].first
    assert copied["a"][0].requires_grad
    pointers = {t.data_ptr() for _, t in list_tensors(value)}
    assert not pointers & {t.data_ptr() for _, t in list_tensors(copied)}
    copied["c"][0] = 5
    assert value["c"][0] == 1


@pytest.mark.parametrize(
    ("expected", "got", "kind", "place"),
    [
        (torch.ones(2), torch.ones(3), "shape", "r"),
        (torch.ones(2), torch.ones(2).double(), "dtype", "r"),
        (torch.ones(2), [1.0, 1.0], "dtype", "r"),
        (torch.ones(2), torch.tensor([1.0, 1.001]), "value", "r"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "value", "r"),
        (torch.ones(2, requires_grad=True), torch.ones(2), "gradient", "r"),
        (torch.ones(2), torch.ones(2, requires_grad=True), "gradient", "r"),
        (torch.tensor([float("nan")]), torch.tensor([0.0]), "value", "r"),
        (Pair(1, (2, 3)), Pair(1, (2, 4)), "value", "r.second[1]"),
        ([1, 2], [1], "shape", "r"),
        ([1], (1,), "dtype", "r"),
        ({"a": 1}, {"b": 1}, "shape", "r"),
        ({"a": 1}, {"a": 1.0}, "dtype", "r['a']"),
        (1.0, 1.01, "value", "r"),
        (1, True, "dtype", "r"),
        (None, 0, "dtype", "r"),
        ("a", "b", "value", "r"),
        (np.ones(2), np.ones(2, np.float32), "dtype", "r"),
        (np.ones(2), np.zeros(2), "value", "r"),
        (Node(torch.ones(2)), Node(torch.zeros(2)), "value", "r.weight"),
        ({1, 2}, {1, 3}, "value", "r"),
    ],
)
def test_each_difference_has_its_kind_and_place(expected: Any, got: Any, kind: str, place: str) -> None:
    found = find_mismatch(expected, got, "r")
    assert found is not None
    assert (found.kind, found.fields["place"]) == (kind, place)
    assert find_mismatch(expected, copy_value(expected), "r") is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_one_unit_in_the_last_place_is_no_difference(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -300.0, 0.0], dtype=dtype)
    near = x * (1 + torch.finfo(dtype).eps)
    assert find_mismatch(x, near, "r") is None
    assert find_mismatch(x, x * 1.2, "r") is not None


def test_special_values_are_equal_to_themselves() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    assert find_mismatch(x, x.clone(), "r") is None
    assert find_mismatch((float("nan"), float("inf")), (float("nan"), float("inf")), "r") is None
    assert find_mismatch(float("inf"), 1.0, "r") is not None


def test_a_description_is_short_whatever_the_value() -> None:
    for value in (torch.ones(1000, 1000), ["word" * 100] * 100, {i: i for i in range(1000)}, "x" * 10**6):
        assert len(describe_value(value)) < 500
    assert describe_value(torch.tensor([1.0, 2.0])) == "tensor([1., 2.])"


def test_numbers_that_differ_in_late_digits_are_shown_with_all_of_them() -> None:
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)
    found = find_mismatch(x, x / 3 * (3 + 1e-6), "r")
    assert found is not None
    assert (found.expected, found.got[:9]) == ("1.0", "1.0000003")


def test_the_place_that_is_shown_has_a_difference_that_can_be_seen() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    found = find_mismatch(x, x + torch.tensor([0.001, 1.0, 5.0]), "r")
    assert found is not None
    assert (found.fields["different"], found.fields["index"]) == (3, [1])
    found = find_mismatch(x, x + torch.tensor([0.001, 1.0, float("nan")]), "r")
    assert found is not None
    assert found.fields["index"] == [2]


def test_lengths_and_a_missing_result_are_told() -> None:
    found = find_mismatch((1, 2), (1, 2, 3), "result")
    assert found is not None
    assert found.message.format(**found.fields) == "result has the length 3, and should have 2"
    found = find_mismatch(torch.ones(2), None, "result")
    assert found is not None
    assert (found.kind, found.message) == ("value", messages.NOTHING)
    assert describe_value((1,)) == "(1,)"
