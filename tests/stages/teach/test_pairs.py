"""`stages.teach.pairs`, calls and probes: calls are compared where possible, the caller gets the learner's result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pure.loss.check import expect
from stages.teach.calls import Record
from stages.teach.pairs import PROBED_CALLS, PROBED_TENSORS, SPOILED_TENSORS, pair_functions


def ours(x: Tensor, *, factor: float = 2.0) -> Tensor:
    if x.dim() != 1:
        raise ValueError("expected one axis")
    return (x * factor).sum() + x.square().mean().detach()


def compare(learner: Callable, *args: Any, reference: Callable = ours, **kwargs: Any) -> tuple[str, str]:
    """Call a pair; return the kind of the first difference, and its input."""
    record = Record("f")
    with contextlib.suppress(ValueError):
        pair_functions(learner, reference, record)(*args, **kwargs)
    return (record.reports[0].mismatch.kind, record.reports[0].input) if record.reports else ("", "")


def test_the_same_function_shows_no_difference_with_and_without_gradient() -> None:
    for x in (torch.ones(3), torch.ones(3, requires_grad=True), torch.ones(3).bfloat16(), torch.zeros(0)):
        assert compare(ours, x) == ("", "")
        assert compare(ours, x, factor=3.0) == ("", "")


def test_an_error_of_the_same_type_is_no_difference_and_reaches_the_caller() -> None:
    def refuses(x: Tensor, *, factor: float = 2.0) -> Tensor:
        raise ValueError("no")

    record = Record("f")
    with pytest.raises(ValueError, match="no"):
        pair_functions(refuses, ours, record)(torch.ones(2, 2))
    assert record.reports == []
    assert compare(refuses, torch.ones(2))[0] == "raises"
    assert compare(lambda x, *, factor=2.0: x.sum(), torch.ones(2, 2))[0] == "raises"


@pytest.mark.parametrize(
    ("learner", "kind"),
    [
        (lambda x, *, factor=2.0: (x * factor).sum() + x.square().mean(), "gradient"),
        (lambda x, *, factor=2.0: ((x * factor).sum() + x.square().mean()).detach(), "gradient"),
        (lambda x, *, factor=2.0: (x * factor).sum() + 1, "value"),  # right for ones alone
        (lambda x, *, factor=2.0: x.new_tensor(7.0), "gradient"),  # the answer of the example
        (lambda x, *, factor=2.0: ours(x.add_(1).sub_(1).mul_(2)), "purity"),
        (lambda x, *, factor=2.0: ours(x).double(), "dtype"),
        (lambda x, *, factor=2.0: ours(x).reshape(1), "shape"),
    ],
)
def test_a_call_shows_what_is_wrong(learner: Callable, kind: str) -> None:
    found, shown = compare(learner, torch.ones(3))
    assert found == kind
    assert shown.startswith("x = tensor(")


def test_nothing_is_compared_inside_a_transform_and_when_compiling() -> None:
    record = Record("f")
    pair = pair_functions(lambda x: x.sum() * 2, lambda x: x.sum(), record)
    assert torch.equal(torch.func.grad(pair)(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(torch.func.vmap(pair)(torch.ones(3, 2)), torch.full((3,), 4.0))
    compiled = torch.compile(pair, backend="eager", fullgraph=True)
    assert float(compiled(torch.ones(2))) == 4.0
    assert record.reports == []
    pair(torch.ones(2))
    assert len(record.reports) == 1


def test_a_function_that_calls_itself_calls_its_own_kind() -> None:
    record = Record("f")
    names: dict[str, Callable] = {}

    def power(x: Tensor, n: int) -> Tensor:
        return x if n == 1 else x * names["pair"](x, n - 1)

    def wrong(x: Tensor, n: int) -> Tensor:
        return x if n == 1 else x * names["pair"](x, n - 1) + 1

    names["pair"] = pair_functions(power, power, record)
    assert float(names["pair"](torch.tensor(2.0), 5)) == 32.0
    assert record.counts["calls"] == 1
    assert record.reports == []
    names["pair"] = pair_functions(wrong, power, record)
    names["pair"](torch.tensor(2.0), 3)
    assert record.reports[0].mismatch.expected == "tensor(8.)"


def test_iterators_and_functions_that_are_returned_are_compared_when_they_are_used() -> None:
    def count(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item + 1

    def count_wrongly(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item + (1 if item < 3 else 2)

    record = Record("f")
    assert list(pair_functions(count, count, record)(iter(range(4)))) == [1, 2, 3, 4]
    assert record.reports == []
    assert list(pair_functions(count_wrongly, count, record)(iter(range(4)))) == [1, 2, 3, 5]
    assert record.reports[0].input == "item 3"

    def build(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda x: x * factor

    def build_wrongly(factor: float) -> Callable[[Tensor], Tensor]:
        return lambda x: x * (factor + 1)

    record = Record("f")
    scaled = pair_functions(build_wrongly, build, record)(2.0)
    assert record.reports == []
    assert float(scaled(torch.tensor(1.0))) == 3.0
    assert record.reports[0].mismatch.kind == "value"


def test_the_pair_has_the_learners_name_and_does_not_change_the_callers_tensors() -> None:
    def named(x: Tensor) -> Tensor:
        """Doubles."""
        return x * 2

    pair = pair_functions(named, named, Record("f"))
    assert (pair.__name__, pair.__doc__) == ("named", "Doubles.")
    x = torch.ones(2, requires_grad=True)
    y = pair(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((2,), 2.0))


def test_an_answer_that_overflows_in_float16_or_ignores_ties_shows_a_difference() -> None:
    def precise(x: Tensor) -> Tensor:
        u = x.to(torch.promote_types(x.dtype, torch.float32))
        return (u / u.square().mean().sqrt()).to(x.dtype)

    def rough(x: Tensor) -> Tensor:
        return x / x.square().mean().sqrt()

    x = torch.tensor([2.0, 3.0])
    assert compare(precise, x, reference=precise) == ("", "")
    found, shown = compare(rough, x, reference=precise)
    assert found == "value"
    assert "dtype=torch.float16" in shown
    record = Record("f")
    pair_functions(rough, precise, record)(x)
    assert "dtype=torch.float16" in record.reports[0].mismatch.expected

    def keep(x: Tensor) -> Tensor:
        return x[1:] > x[:-1]

    x = torch.tensor([1.1, 1.2, 2.9])
    assert compare(keep, x, reference=keep) == ("", "")
    assert compare(lambda x: x[1:] >= x[:-1], x, reference=keep)[0] == "value"


def test_a_result_without_gradient_must_have_none() -> None:
    assert compare(lambda x: x * 2, torch.ones(2), reference=lambda x: x.detach() * 2)[0] == "gradient"


def test_what_our_own_code_refuses_must_be_refused() -> None:
    def check(x: Tensor, y: Tensor) -> Tensor:
        expect("f", x=(x, "B", "float"), y=(y, "B", "integer"))
        return x * y

    def check_shapes(x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape or x.dim() != 1:
            raise ValueError("shape")
        return x * y

    arguments = torch.ones(3), torch.tensor([1, 2, 3])
    assert compare(check, *arguments, reference=check) == ("", "")
    assert compare(lambda x, y: x * y, *arguments, reference=check)[0] == "raises"
    assert compare(check_shapes, *arguments, reference=check)[0] == "raises"
    # what torch refuses, or this file's own function, which is none of the packages
    assert compare(lambda x, y: x * y.clone(), *arguments, reference=check_shapes) == ("", "")


def test_each_variant_is_called_again_though_many_calls_came_before() -> None:
    def reference(x: Tensor, variant: str) -> Tensor:
        return x.sum() + (x.square().sum().detach() if variant == "b" else 0)

    def learner(x: Tensor, variant: str) -> Tensor:
        return x.sum() + (x.square().sum() if variant == "b" else 0)

    record = Record("f")
    pair = pair_functions(learner, reference, record)
    for _ in range(PROBED_CALLS + 1):
        pair(torch.ones(2), "a")
    assert record.reports == []
    pair(torch.ones(2), "b")
    assert record.reports[0].mismatch.kind == "gradient"


def test_of_many_tensors_each_variant_is_called_again_once() -> None:
    calls: list[str] = []

    def learner(trees: list[Tensor], variant: str) -> Tensor:
        calls.append(variant)
        return torch.stack(trees).sum()

    pair = pair_functions(learner, learner, Record("f"))
    trees = [torch.ones(()) for _ in range(PROBED_TENSORS // 2)]
    counts = []
    for variant in ("a", "a", "a", "b", "b"):
        before = len(calls)
        pair(trees, variant)
        counts.append(len(calls) - before)
    assert [count > 2 for count in counts] == [True, True, False, True, False]  # more than theirs and ours


def test_of_many_tensors_a_wrong_shape_is_tried_in_the_first_calls_alone() -> None:
    def reference(trees: list[Tensor]) -> Tensor:
        expect("f", x=(trees[0], "", "float"))
        return torch.stack([x.sum() for x in trees]).sum()

    def learner(trees: list[Tensor]) -> Tensor:
        return torch.stack([x.sum() for x in trees]).sum()

    trees = [torch.ones(()) for _ in range(SPOILED_TENSORS)]
    record = Record("f")
    assert compare(learner, trees, reference=reference)[0] == "raises"
    record.counts["probed tensors"] = SPOILED_TENSORS
    pair_functions(learner, reference, record)(trees)
    assert record.reports == []


def test_a_gradient_that_a_clamp_hides_is_compared_at_smaller_numbers() -> None:
    found, _ = compare(
        lambda x: x.clamp(-20, 20).sum() + x.clamp(-20, 20).square().sum(),
        torch.tensor([100.0]),
        reference=lambda x: x.clamp(-20, 20).sum() + x.clamp(-20, 20).square().sum().detach(),
    )
    assert found == "gradient"
