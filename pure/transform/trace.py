"""Compilation of what is never differentiated: from a trace of its operations, without Dynamo.

Dynamo reads Python, byte by byte; for an optimizer's walks over trees that takes longer than compiling what
they compute. A pure function without gradient can simply be run once on tensors that have a shape and no
numbers: what it did is the program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pure import tree
from pure.types import Tree


def traced(function: Callable, backend: str | Callable) -> Callable:
    """Returns the same function, compiled for each kind of arguments that it meets.

    Args:
        function: pure, of positional trees; it may write into its arguments. Numbers and strings among the
            leaves are compiled in.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        A function of the same arguments, for tensors that do not require grad; what it returns has none
        either.

    Edge cases: arguments of another structure, shape or type are compiled anew.

    Example:
        >>> traced(lambda p, rate: {"w": p["w"] - rate}, "aot_eager")({"w": torch.ones(2)}, torch.tensor(0.5))
        {'w': tensor([0.5000, 0.5000])}
    """
    programs: dict[Any, tuple[Callable, Any]] = {}

    def call(*args: Tree) -> Tree:
        values, spec = tree.flatten(args)
        kinds = (spec, tuple(kind(x) for x in values))
        with torch.no_grad():
            if kinds not in programs:
                programs[kinds] = _program(function, backend, spec, values)
            run, result = programs[kinds]
            return tree.unflatten(result, list(run(*(x for x in values if isinstance(x, Tensor)))))

    return call


def kind(x: Any) -> Any:
    """What compiled code takes for granted of a leaf; a number is compiled in."""
    if not isinstance(x, Tensor):
        return type(x), x
    return x.shape, x.dtype, x.device, x.stride() if x.layout is torch.strided else x.layout


def _program(function: Callable, backend: str | Callable, spec: Any, values: list) -> tuple[Callable, Any]:
    """Traces and compiles: (tensors -> the results' leaves, the results' structure)."""
    tensors, found = [x for x in values if isinstance(x, Tensor)], []

    def flat(*given: Tensor) -> tuple:
        rest = iter(given)
        result = function(*tree.unflatten(spec, [next(rest) if isinstance(x, Tensor) else x for x in values]))
        leaves, structure = tree.flatten(result)
        found.append(structure)
        return tuple(leaves)

    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    compiler = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
    return compiler(graph, tensors), found[-1]
