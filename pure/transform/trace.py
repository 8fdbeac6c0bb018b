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
from pure.transform.apply_if import conditionals_traced
from pure.types import Tree


def trace_and_compile(function: Callable, backend: str | Callable) -> Callable:
    """Returns the same function, compiled once for each signature of its arguments.

    Args:
        function: pure, of positional trees; it may write into its arguments. Numbers and strings among the
            leaves are constants of the compiled code.
        backend: as in `pure.transform.jit.jit`.

    Returns:
        A function of the same arguments that runs under `torch.no_grad`: its results never require grad.

    Edge cases: it is compiled again for arguments of another structure, shape or dtype, or with other numbers
    or strings.

    Example:
        >>> compiled = trace_and_compile(lambda p, rate: {"w": p["w"] - rate}, "aot_eager")
        >>> compiled({"w": torch.ones(2)}, torch.tensor(0.5))
        {'w': tensor([0.5000, 0.5000])}
    """
    programs: dict[Any, tuple[Callable, Any]] = {}

    def call(*args: Tree) -> Tree:
        values, spec = tree.flatten(args)
        signature = (spec, tuple(leaf_signature(x) for x in values))
        with torch.no_grad():
            if signature not in programs:
                programs[signature] = _compile(function, backend, spec, values)
            run, result_spec = programs[signature]
            tensors = [x for x in values if isinstance(x, Tensor)]
            return tree.unflatten(result_spec, list(run(*tensors)))

    return call


def leaf_signature(x: Any) -> Any:
    """Returns what compiled code assumes of a leaf: a tensor's shape, dtype, ...; else the type and value."""
    if not isinstance(x, Tensor):
        return type(x), x
    layout = x.stride() if x.layout is torch.strided else x.layout
    return x.shape, x.dtype, x.device, layout


def _compile(function: Callable, backend: str | Callable, spec: Any, values: list) -> tuple[Callable, Any]:
    """Traces and compiles.

    Returns:
        (tensors -> leaves of the result, structure of the result).
    """
    tensors = [x for x in values if isinstance(x, Tensor)]
    result_specs: list[Any] = []  # the trace runs `flat_function`, which appends the structure of its result

    def flat_function(*new_tensors: Tensor) -> tuple:
        remaining = iter(new_tensors)
        leaves = [next(remaining) if isinstance(x, Tensor) else x for x in values]
        result_leaves, result_spec = tree.flatten(function(*tree.unflatten(spec, leaves)))
        result_specs.append(result_spec)
        return tuple(result_leaves)

    with conditionals_traced():
        graph = make_fx(flat_function, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
    if backend == "aot_eager":
        return graph, result_specs[
            -1
        ]  # already a graph of ATen operations, which this backend would trace again
    compiler = torch._dynamo.lookup_backend(backend) if isinstance(backend, str) else backend
    return compiler(graph, tensors), result_specs[-1]
