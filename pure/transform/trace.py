"""Compilation of functions that need no gradient from a trace of their operations, without Dynamo.

Dynamo interprets Python bytecode, which for an optimizer's loops over trees takes longer than compiling their
operations. A pure function that needs no gradient can be traced by one run on fake tensors instead.
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
    """Returns the same function, compiled for each signature of its arguments.

    Args:
        function: pure, of positional trees; it may write into its arguments. Numbers and strings among the
            leaves are constants of the compiled code.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        A function of the same arguments, for tensors that do not require grad; its results do not either.

    Edge cases: arguments of another structure, shape or type are compiled again.

    Example:
        >>> traced(lambda p, rate: {"w": p["w"] - rate}, "aot_eager")({"w": torch.ones(2)}, torch.tensor(0.5))
        {'w': tensor([0.5000, 0.5000])}
    """
    programs: dict[Any, tuple[Callable, Any]] = {}

    def call(*args: Tree) -> Tree:
        values, spec = tree.flatten(args)
        signature = (spec, tuple(leaf_signature(x) for x in values))
        with torch.no_grad():
            if signature not in programs:
                programs[signature] = _compile(function, backend, spec, values)
            run, result = programs[signature]
            return tree.unflatten(result, list(run(*(x for x in values if isinstance(x, Tensor)))))

    return call


def leaf_signature(x: Any) -> Any:
    """Returns what compiled code assumes of a leaf: a tensor's shape, dtype, ...; else the value."""
    if not isinstance(x, Tensor):
        return type(x), x
    return x.shape, x.dtype, x.device, x.stride() if x.layout is torch.strided else x.layout


def _compile(function: Callable, backend: str | Callable, spec: Any, values: list) -> tuple[Callable, Any]:
    """Traces and compiles: (tensors -> the results' leaves, the results' structure)."""
    tensors, structures = [x for x in values if isinstance(x, Tensor)], []

    def flat(*given: Tensor) -> tuple:
        rest = iter(given)
        result = function(*tree.unflatten(spec, [next(rest) if isinstance(x, Tensor) else x for x in values]))
        leaves, structure = tree.flatten(result)
        structures.append(structure)
        return tuple(leaves)

    graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    compiler = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
    return compiler(graph, tensors), structures[-1]
