"""Marks for the compiler: a node is not traced, a constant is computed while it traces, and nothing is imported."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from pure.transform.graph_node import constant, graph_node
from tests.rules.source import ROOT

CALLS: list[str] = []


class Double(torch.autograd.Function):
    """2x, with a jvp, which a compiler cannot trace."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: object, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, dy: Tensor) -> Tensor:
        return 2 * dy

    @staticmethod
    def jvp(ctx: object, dx: Tensor) -> Tensor:
        return 2 * dx


@graph_node
def double(x: Tensor) -> Tensor:
    """2x."""
    return Double.apply(x)


@constant
def count_calls() -> int:
    """Number of calls, in Python."""
    CALLS.append("called")
    return len(CALLS)


def test_a_node_is_one_call_of_the_graph_and_has_its_gradient() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list) -> object:
        graphs.append(graph)
        return graph.forward

    def loss(x: Tensor) -> Tensor:
        return double(x + 1).square().sum()

    x = torch.tensor([1.0, 2.0])
    compiled = torch.compile(loss, backend=keep, fullgraph=True)
    assert compiled(x) == loss(x)
    called = [node.target for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert double.__wrapped__ in called
    for backend in ("eager", "aot_eager"):
        inside = torch.compile(torch.func.grad(loss), backend=backend, fullgraph=True)
        assert torch.equal(inside(x), 8 * (x + 1))
    assert double.__name__ == "double"


def test_a_constant_is_computed_once_while_the_compiler_traces() -> None:
    CALLS.clear()
    compiled = torch.compile(lambda x: x + count_calls(), backend="eager", fullgraph=True)
    assert [compiled(torch.zeros(())).item() for _ in range(3)] == [1.0] * 3
    assert len(CALLS) == 1


def test_the_model_the_optimizers_and_the_stages_import_neither_the_compiler_nor_dtensors() -> None:
    code = (
        "import sys, pure.loss, pure.nn.transformer, pure.optim, pure.parallel, pure.random, pure.transform\n"
        "import stages.grpo, stages.run.loop, stages.models.language_model\n"
        "assert not {'torch._dynamo', 'torch.distributed.tensor'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
