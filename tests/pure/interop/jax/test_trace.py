"""Tracing: what a program holds, what is computed while tracing, and what is refused by line."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pure import tree
from pure.interop.jax.program import Program, Shaped, Value
from pure.interop.jax.trace import argument_name, trace
from pure.interop.jax.trace_modes import describe_uncovered
from pure.transform.grad import grad

X = Shaped((4,), "float32")


def traced(function, *shapes, **options) -> Program:
    return trace(function, (shapes, {}), **options)


def names(program: Program) -> list[str]:
    return [x.name for x in program.operations]


def test_structures_numbers_and_dtypes_are_kept() -> None:
    def function(args: dict, scale: float) -> tuple:
        return {"y": [args["x"] * scale, None]}, 3, args["x"].shape[0], args["i"].double().sum()

    program = traced(function, {"x": X, "i": Shaped((2, 2), "int64")}, 0.5)
    assert program.arguments == [Shaped((2, 2), "int64"), X, 0.5]
    assert program.operations[0].args == [Value(1), 0.5]
    assert [x.result.dtype for x in program.operations] == ["float32", "float64", "float64"]
    assert program.result == ({"y": [Value(3), None]}, 3, 4, Value(5))


def test_constants_are_folded_and_unused_work_is_left_out() -> None:
    bound = torch.arange(4.0)

    def function(x: Tensor, unused: Tensor) -> Tensor:
        table = torch.arange(4, dtype=torch.float64) * 2.0**40  # in float64, although it becomes float32
        _ = unused.exp() * table
        return x * (table + bound).float() + bound

    program = traced(function, X, X)
    assert names(program) == ["mul.Tensor", "add.Tensor"]
    assert torch.equal(program.constants[0], (torch.arange(4).double() * 2.0**40 + bound).float())
    assert program.constants[1] is bound  # not copied


def test_what_is_made_of_a_large_bound_tensor_stays_in_the_program() -> None:
    bound = torch.ones(100, 1000, dtype=torch.uint8)
    program = traced(lambda x: x @ bound.float() + bound.sum(), Shaped((2, 100), "float32"))
    assert [x.dtype for x in program.constants] == [torch.uint8, torch.int64]
    assert "_to_copy.default" in names(program)


def test_large_uniform_tensors_are_made_again() -> None:
    program = traced(lambda x: (x[0] + torch.zeros(1000, 1000), torch.full((1000, 1000), 2.0)), X)
    assert not program.constants
    assert names(program).count("zeros.default") + names(program).count("full.default") == 2


def test_writes_inside_are_functional_and_several_results_have_items() -> None:
    def function(x: Tensor) -> tuple:
        y = x.clone()
        y[1:3] += 1
        y.mul_(2)
        return y.max(0), *y.split(2)

    program = traced(function, X)
    assert not any(name.split(".")[0].endswith("_") for name in names(program))
    values, indices = program.result[0]
    assert (values.item, indices.item) == (0, 1)


def test_a_result_may_be_an_argument_or_a_constant() -> None:
    bound = torch.ones(2)
    program = traced(lambda x: {"same": x, "twice": [x, bound]}, X)
    assert program.result == {"same": Value(0), "twice": [Value(0), Value(1)]}
    assert program.constants == [bound]


def test_gradients_inside_can_be_differentiated_again() -> None:
    """Autograd would cut them off by `detach`."""
    program = traced(grad(lambda x: x.exp().tanh().softmax(0).square().sum()), X)
    assert "detach.default" not in names(program)


def test_what_is_computed_without_gradients_is_detached() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = x.exp()
            count = (x > 0).sum()
        return x * weight / count

    program = traced(function, X)
    assert names(program).count("detach.default") == 1


def test_an_operation_that_is_not_covered_is_decomposed() -> None:
    function = lambda x: torch.nn.functional.softplus(x) + x  # noqa: E731
    assert "softplus.default" in names(traced(function, X))
    covered = {"add.Tensor", "exp.default", "log1p.default", "where.self", "gt.Scalar", "mul.Tensor"}
    assert "softplus.default" not in names(traced(function, X, covered=covered))
    unknown = traced(lambda x: torch.special.bessel_j0(x), X, covered=covered)
    assert names(unknown) == ["special_bessel_j0.default"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.sum().item(),
        lambda x: x[: int(x[0])],
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.func.vmap(lambda y: y * y.item())(x),
        lambda x: math.sqrt(x[0]),
    ],
)
def test_a_course_that_depends_on_numbers_is_refused_by_line(function) -> None:
    with pytest.raises(
        ValueError, match=r"test_trace.py:\d+, .* needs the numbers of a tensor .*torch.where"
    ):
        traced(function, X)


def test_writes_outside_are_refused() -> None:
    total = torch.zeros(4)

    def write_bound(x: Tensor) -> Tensor:
        total.add_(x)
        return x

    def write_argument(batch: dict, other: Tensor) -> Tensor:
        batch["x"][0] = 1.0
        return batch["x"].sum()

    with pytest.raises(ValueError, match=r"test_trace.py:\d+, write_bound writes into a tensor from outside"):
        traced(write_bound, X)
    assert torch.equal(total, torch.zeros(4))
    with pytest.raises(ValueError, match=r"writes into argument 0, leaf 'x'.*compute a new tensor"):
        traced(write_argument, {"x": X}, X)


def test_the_fix_is_that_of_the_operation() -> None:
    assert "with pure.random" in describe_uncovered("randn.default", "a.py:1, f")
    assert "write an entry" in describe_uncovered("hypot.default", "a.py:1, f")


def test_errors_of_the_function_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError):
        traced(lambda x: x / (1 // 0), X)
    with pytest.raises(RuntimeError, match=r"reduction dim|mat1 and mat2"):
        traced(lambda x: torch.ones(2, 3) @ x.reshape(2, 2), X)


def test_leaves_are_named_as_a_caller_sees_them() -> None:
    (path,) = tree.paths((({"w": [1]},), {}))
    assert argument_name(path) == "argument 0, leaf 'w/0'"
