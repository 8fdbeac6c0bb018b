"""The checks themselves are checked: they see a wrong shape, and get in the way of no transform."""

from __future__ import annotations

import doctest
import types

import pytest
import torch
from torch import Tensor

from pure import tree
from tests.signatures import annotation, checked


def mix(x: Tensor, weight: Tensor, key: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
    """Mixes.

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
        checked(mix)(x, weight, key)


def test_shapes_of_the_docstring_pass() -> None:
    x, weight, key = torch.ones(5, 4, 3), torch.ones(2, 3), torch.zeros(2, dtype=torch.uint32)
    assert torch.equal(checked(mix)(x, weight, key, scale=2), mix(x, weight, scale=2.0))


def test_a_wrong_result_is_refused() -> None:
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
        checked(transposed)(torch.zeros(2, 3))


def test_formulas_are_not_checked() -> None:
    assert isinstance(torch.zeros(3, 7), annotation("T, H/2", ""))
    assert not isinstance(torch.zeros(7), annotation("T, H/2", ""))
    assert isinstance(torch.zeros(()), annotation("", "float32"))


def test_checks_get_in_the_way_of_no_transform() -> None:
    """torch.func sees logical shapes, and Dynamo sees only the function."""
    x, weight = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)
    loss = lambda x: checked_mix(x, weight).square().sum()  # noqa: E731
    checked_mix = checked(mix)
    per_row = torch.func.vmap(torch.func.grad(loss))
    torch.testing.assert_close(per_row(x), torch.func.grad(loss)(x))
    compiled = torch.compile(per_row, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), per_row(x))


def test_many_functions_can_be_compiled() -> None:
    """Dynamo's limit on recompilations is for each function, though all are wrapped alike."""
    plenty = torch._dynamo.config.recompile_limit + 2
    made = [
        types.FunctionType(mix.__code__.replace(co_name=f"mix{i}"), mix.__globals__) for i in range(plenty)
    ]
    for function in made:
        function.__annotations__, function.__kwdefaults__ = mix.__annotations__, mix.__kwdefaults__
        function.__defaults__ = mix.__defaults__
        compiled = torch.compile(checked(function), fullgraph=True, backend="eager")
        assert torch.equal(compiled(torch.ones(5, 3), torch.ones(2, 3)), torch.full((5, 2), 3.0))


def test_modules_of_pure_are_checked_and_keep_their_doctests() -> None:
    with pytest.raises(TypeError, match="dtype"):
        tree.cast({"x": torch.zeros(2)}, "float32")
    found = [test for test in doctest.DocTestFinder().find(tree) if test.examples]
    assert "pure.tree.norm" in [test.name for test in found]
