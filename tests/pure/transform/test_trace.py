"""`trace_and_compile` equals the function, and compiles once for each kind of arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pure import tree
from pure.transform.trace import trace_and_compile
from pure.types import Tree


class Moments(NamedTuple):
    """A NamedTuple in arguments and results."""

    count: Tensor
    mu: Tree


def update(params: Tree, moments: Moments, rate: float, name: str) -> tuple[Tree, Moments]:
    mu = tree.map(lambda m, p: 0.5 * m + p.sin(), moments.mu, params)
    new = tree.map(lambda p, m: p - rate * m * (2 if name == "twice" else 1), params, mu)
    return new, Moments(moments.count + 1, mu)


def arguments_of(size: int = 3) -> tuple[Tree, Moments]:
    params = {"w": torch.arange(6.0).view(2, 3), "list": [torch.ones(size), torch.zeros(())]}
    return params, Moments(torch.tensor(4), tree.map(torch.ones_like, params))


def trees_equal(a: Tree, b: Tree) -> bool:
    return tree.structure(a) == tree.structure(b) and all(map(torch.equal, tree.leaves(a), tree.leaves(b)))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_traced_function_equals_the_function(backend: str) -> None:
    compiled = trace_and_compile(update, backend)
    for rate, name in ((0.5, "once"), (0.25, "twice")):
        result, expected = compiled(*arguments_of(), rate, name), update(*arguments_of(), rate, name)
        assert tree.structure(result) == tree.structure(expected)
        for a, b in zip(tree.leaves(result), tree.leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_one_graph_is_compiled_for_each_shape_dtype_and_plain_value() -> None:
    graphs: list[int] = []

    def counting_backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(len(inputs))
        return graph.forward

    compiled = trace_and_compile(update, counting_backend)
    for _ in range(2):
        for arguments in (
            (*arguments_of(), 0.5, "once"),
            (*arguments_of(4), 0.5, "once"),
            (*arguments_of(), 1, "once"),
            (*arguments_of(), 1.0, "once"),
        ):
            assert trees_equal(compiled(*arguments), update(*arguments))
    params, moments = arguments_of()
    compiled(tree.map(lambda x: x.double(), params), moments, 0.5, "once")
    assert graphs == [7] * 5  # four kinds above and the float64 one, of 7 tensors each


def test_a_traced_function_may_write_into_an_argument() -> None:
    def double_and_add(first: Tree, rest: Tensor) -> Tensor:
        tree.map(lambda x: x.copy_(x * 2 + rest), first)
        return rest + 1

    first = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert trace_and_compile(double_and_add, "aot_eager")(first, torch.tensor(1.0)) == 2
    assert first["a"].tolist() == [3, 3]
    assert first["b"].tolist() == [1, 1]


def test_a_traced_function_may_use_a_tensor_of_its_closure() -> None:
    table = torch.tensor([1.0, 10.0, 100.0])
    compiled: Any = trace_and_compile(lambda i: table.index_select(0, i) + torch.tensor(0.5), "aot_eager")
    assert [compiled(torch.tensor([i])).item() for i in range(3)] == [1.5, 10.5, 100.5]


def test_a_traced_function_may_return_arguments_views_and_none() -> None:
    x = torch.ones(3)
    argument, view, none = trace_and_compile(lambda x: (x, x[1:], None), "aot_eager")(x)
    assert torch.equal(argument, x)
    assert view.shape == (2,)
    assert none is None
