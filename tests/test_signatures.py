"""`tests/signatures.py`: its checks refuse wrong shapes, and work under every transform."""

from __future__ import annotations

import doctest
import types

import pytest
import torch
from torch import Tensor

from pure import tree
from pure.nn import linear
from tests.signatures import add_checks, jaxtyping_type


def multiply(x: Tensor, weight: Tensor, key: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
    """Multiplies by a matrix.

    Args:
        x: [..., D] float32.
        weight: [O, D]; the matrix.
        key: [2] uint32, or None.
        scale: a factor.

    Returns:
        [..., O].
    """
    return x @ weight.T * scale


@pytest.mark.parametrize(
    ("x", "weight", "key"),
    [
        (torch.zeros(5, 3), torch.zeros(2, 4), None),
        (torch.zeros(5, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64), None),
        (torch.zeros(5, 3), torch.zeros(3), None),
        (torch.zeros(5, 3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.uint32)),
        (torch.zeros(5, 3), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)),
    ],
)
def test_shapes_that_contradict_the_docstring_are_refused(
    x: Tensor, weight: Tensor, key: Tensor | None
) -> None:
    with pytest.raises(TypeError, match="Type-check error"):
        add_checks(multiply)(x, weight, key)


def test_shapes_that_agree_with_the_docstring_are_accepted() -> None:
    x, weight, key = torch.ones(5, 4, 3), torch.ones(2, 3), torch.zeros(2, dtype=torch.uint32)
    assert torch.equal(add_checks(multiply)(x, weight, key, scale=2), multiply(x, weight, scale=2.0))


def test_a_wrong_shape_is_refused_after_a_right_one() -> None:
    function = add_checks(multiply)
    function(torch.zeros(5, 3), torch.zeros(2, 3))
    with pytest.raises(TypeError, match="Type-check error"):
        function(torch.zeros(5, 3), torch.zeros(2, 4))


def test_a_result_of_another_shape_than_documented_is_refused() -> None:
    def transposed(x: Tensor) -> Tensor:
        """Transposes.

        Args:
            x: [A, B].

        Returns:
            [A, B].
        """
        return x.T

    transposed.__annotations__ = {"x": "Tensor", "return": "Tensor"}
    with pytest.raises(TypeError, match="return"):
        add_checks(transposed)(torch.zeros(2, 3))


def test_lengths_that_are_formulas_are_not_checked() -> None:
    assert isinstance(torch.zeros(3, 7), jaxtyping_type("T, H/2", ""))
    assert not isinstance(torch.zeros(7), jaxtyping_type("T, H/2", ""))
    assert isinstance(torch.zeros(()), jaxtyping_type("", "float32"))


def test_checked_functions_work_under_vmap_grad_and_compile() -> None:
    """torch.func sees logical shapes, and Dynamo sees only the function."""
    x, weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)
    checked_multiply = add_checks(multiply)

    def loss(x: Tensor) -> Tensor:
        return checked_multiply(x, weight).square().sum()

    per_row = torch.func.vmap(torch.func.grad(loss))
    torch.testing.assert_close(per_row(x), torch.func.grad(loss)(x))
    compiled = torch.compile(per_row, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), per_row(x))


def test_more_checked_functions_than_dynamos_recompile_limit_can_be_compiled() -> None:
    """The limit applies to each function, although all have the same wrapper."""
    count = torch._dynamo.config.recompile_limit + 2
    copies = [
        types.FunctionType(multiply.__code__.replace(co_name=f"multiply{i}"), multiply.__globals__)
        for i in range(count)
    ]
    for function in copies:
        function.__annotations__, function.__kwdefaults__ = multiply.__annotations__, multiply.__kwdefaults__
        function.__defaults__ = multiply.__defaults__
        compiled = torch.compile(add_checks(function), fullgraph=True, backend="eager")
        assert torch.equal(compiled(torch.ones(5, 3), torch.ones(2, 3)), torch.full((5, 2), 3.0))


def test_modules_of_pure_are_checked_and_keep_their_doctests() -> None:
    with pytest.raises(TypeError, match="weight"):
        linear.linear([[1.0]], torch.zeros(1))
    doctests = [test for test in doctest.DocTestFinder().find(tree) if test.examples]
    assert "pure.tree.norm" in [test.name for test in doctests]
