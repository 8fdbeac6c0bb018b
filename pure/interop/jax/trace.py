"""Tracing of a pure torch function into a Program, by one run on fake tensors.

The run sees no numbers, only shapes and dtypes. Gradients inside the function are taken by torch.func, so
that what is traced can be differentiated again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from pure import tree
from pure.interop.jax.hashing import one_operator
from pure.interop.jax.program import Operation, Program, Shaped, Value
from pure.interop.jax.trace_modes import explain, watch
from pure.types import Tree

FOLD = 1 << 22
"""Bytes up to which a tensor that depends on no argument is computed while tracing."""
SMALL = 1 << 16
"""Bytes above which a bound tensor is large."""
UNIFORM = ("full", "zeros", "ones", "empty")
"""Operations that make a tensor of one number: making it again is cheaper than keeping it."""


class Traced(NamedTuple):
    """A traced function: the graph, the leaves of its results (a Tensor stands for the next output), their
    structure."""

    graph: GraphModule
    leaves: list
    structure: Any


def trace(
    function: Callable,
    arguments: Tree,
    *,
    covered: Collection[str] | None = None,
    foreign: set[str] | None = None,
) -> Program:
    """Traces a function of trees.

    Args:
        function: pure; called as function(*args, **kwargs).
        arguments: (args, kwargs): a tuple and a dict of trees. Leaves are Shapeds for tensors; numbers and
            strings are constants of the program.
        covered: names of the operations that can be evaluated; another one is replaced by torch's
            decomposition into simpler ones, where there is one. None: all.
        foreign: if given, receives the names of the function's torch.autograd.Functions and backward hooks,
            which are not in the program.

    Returns:
        Program. What depends on no argument is computed already, up to 4 MiB; what no result depends on is
        left out.

    Raises:
        ValueError: for a function that needs the numbers of a tensor while it is traced, or writes into an
            argument or a bound tensor; the message names the line.

    Example:
        >>> program = trace(lambda x: x * 2 + torch.ones(2), ((Shaped((2,), "float32"),), {}))
        >>> [operation.name for operation in program.operations], program.constants, program.result
        (['mul.Tensor', 'add.Tensor'], [tensor([1., 1.])], Value(index=3, item=None))
    """
    values, spec = tree.flatten(arguments)
    decompositions: dict[Any, Callable] = {}
    while True:
        traced = run(function, spec, values, decompositions, foreign=foreign)
        more = _decompositions(traced.graph, covered)
        if not more.keys() - decompositions.keys():
            return _program(traced, values)
        decompositions |= more


def run(
    function: Callable,
    spec: Any,
    values: list,
    decompositions: Mapping[Any, Callable],
    lines: dict | None = None,
    foreign: set[str] | None = None,
) -> Traced:
    """Runs a function on fake tensors and records its operations.

    Args:
        function: as in `trace`.
        spec: structure of the arguments.
        values: their leaves: Shapeds, numbers and strings.
        decompositions: operation -> a function of simpler ones.
        lines: if given, receives the line of each operation; see `trace_modes.watch`. Takes longer.
        foreign: as in `trace`.

    Returns:
        Traced.
    """
    shapes = [x for x in values if isinstance(x, Shaped)]
    names = tree.paths(tree.unflatten(spec, values))
    places = [name for name, x in zip(names, values, strict=True) if isinstance(x, Shaped)]
    results: list[tuple[list, Any]] = []

    def flat(*given: Tensor) -> list[Tensor]:
        rest = iter(given)
        args, kwargs = tree.unflatten(spec, [next(rest) if isinstance(x, Shaped) else x for x in values])
        with watch(lines, foreign):
            result = function(*args, **kwargs)
        _refuse_written(given, places)
        results.append(tree.flatten(result))
        return [x for x in results[-1][0] if isinstance(x, Tensor)]

    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = [torch.empty(x.shape, dtype=getattr(torch, x.dtype)) for x in shapes]
    functional = dispatch_functionalize(flat, FunctionalTensorMode())
    with torch.enable_grad(), explain(), one_operator():
        graph = make_fx(
            functional,
            decomposition_table=dict(decompositions),
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
        )(*fakes)
    graph.graph.eliminate_dead_code()
    return Traced(graph, *results[-1])


def argument_name(path: str) -> str:
    """Names a leaf of (args, kwargs) for a message.

    Example:
        >>> argument_name("0/1/layers/0"), argument_name("1/value")
        ("argument 1, leaf 'layers/0'", 'argument value')
    """
    name, _, inner = path.partition("/")[2].partition("/")
    return f"argument {name}" + (f", leaf {inner!r}" if inner else "")


def _refuse_written(given: tuple[Tensor, ...], names: list[str]) -> None:
    """Refuses a function that wrote into an argument: in JAX the write would be lost."""
    for x, name in zip(given, names, strict=True):
        if torch._functionalize_has_data_mutation(x.elem):  # type: ignore[attr-defined]
            raise ValueError(
                f"lower: the function writes into {argument_name(name)}, and JAX arrays cannot be written; "
                "compute a new tensor and return it"
            )


def _decompositions(graph: GraphModule, covered: Collection[str] | None) -> dict[Any, Callable]:
    """The decompositions of the operations that are not covered, where torch has them."""
    if covered is None:
        return {}
    missing = {node.target for node in _calls(graph) if name_of(node.target) not in covered}
    known = core_aten_decompositions() if missing else {}
    return {target: known[target] for target in missing if target in known}


def _calls(graph: GraphModule) -> list[Node]:
    """The operations of a graph."""
    return [x for x in graph.graph.nodes if x.op == "call_function" and x.target is not operator.getitem]


def name_of(target: Any) -> str:
    """Names an operation: "mul.Tensor" for aten.mul.Tensor, else "namespace.operation.overload"."""
    name = str(target)
    return (
        name.removeprefix("aten.") if isinstance(target, torch._ops.OpOverload) else f"higher_order::{name}"
    )


def _program(traced: Traced, values: list) -> Program:
    """Translates a graph, without the operations that depend on constants alone."""
    known = _fold(traced.graph)
    kept, constants = _needed(traced.graph, known)
    tensors = {id(known[node]): known[node] for node in constants}
    order = {key: len(values) + i for i, key in enumerate(tensors)}
    places: dict[Node, Value] = {node: Value(order[id(known[node])]) for node in constants}
    leaves = (Value(i) for i, x in enumerate(values) if isinstance(x, Shaped))
    first = len(values) + len(tensors)
    operations: list[Operation] = []
    for node in traced.graph.graph.nodes:
        if node.op == "placeholder":
            places[node] = next(leaves)
        elif node in kept and node.target is operator.getitem:
            places[node] = Value(places[node.args[0]].index, node.args[1])
        elif node in kept:
            places[node] = Value(first + len(operations))
            operations.append(_operation(node, places))
    (output,) = (node for node in traced.graph.graph.nodes if node.op == "output")
    outputs = iter(output.args[0])
    result = [places[next(outputs)] if isinstance(x, Tensor) else x for x in traced.leaves]
    return Program(values, list(tensors.values()), operations, tree.unflatten(traced.structure, result))


def _fold(graph: GraphModule) -> dict[Node, Any]:
    """Computes the nodes that depend on no argument: {node: its value}.

    What is made of a large bound tensor, such as a quantised matrix, is left to the program.
    """
    known: dict[Node, Any] = {}
    large: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
            if _bytes(known[node]) > SMALL:
                large.add(node)
        elif node.op == "call_function" and all(x in known for x in node.all_input_nodes):
            derived = bool(large & set(node.all_input_nodes))
            if node.target is operator.getitem or (
                _is_foldable(node.target) and _bytes(node.meta["val"]) <= (SMALL if derived else FOLD)
            ):
                args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
                known[node] = node.target(*args, **kwargs)
    return known


def _is_foldable(target: Any) -> bool:
    """Reports an operation whose result depends on its arguments alone."""
    return (
        isinstance(target, torch._ops.OpOverload)
        and (target.namespace == "aten" or target is torch.ops.intro2llm.threefry2x32.default)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
    )


def _bytes(value: Any) -> int:
    """Counts the bytes of a node's value, with those of a tuple added up."""
    return sum(x.numel() * x.element_size() for x in tree.leaves(value) if isinstance(x, Tensor))


def _needed(graph: GraphModule, known: Mapping[Node, Any]) -> tuple[set[Node], list[Node]]:
    """Returns the nodes that the program computes, and those that it has as constants."""
    kept: set[Node] = set()
    constants: list[Node] = []
    for node in reversed(graph.graph.nodes):
        needed = node.op == "output" or any(user in kept or user.op == "output" for user in node.users)
        if node.op == "output" or not needed:
            continue
        if node in known and not _is_uniform(node):
            constants.append(node)
        elif node.op == "call_function":
            kept.add(node)
    return kept, constants[::-1]


def _is_uniform(node: Node) -> bool:
    """Reports a large tensor of one number, which the program makes again."""
    return (
        node.op == "call_function"
        and not node.all_input_nodes
        and name_of(node.target).partition(".")[0] in UNIFORM
        and _bytes(node.meta["val"]) > SMALL
    )


def _operation(node: Node, places: Mapping[Node, Value]) -> Operation:
    """Translates a node."""
    value = node.meta["val"]
    plain = partial(_plain, places=places)
    several = value if isinstance(value, list | tuple) else []
    return Operation(
        name_of(node.target),
        [plain(x) for x in node.args],
        {key: plain(x) for key, x in node.kwargs.items()},
        _shaped(value) if isinstance(value, Tensor) else [_shaped_or_none(x) for x in several],
    )


def _plain(x: Any, *, places: Mapping[Node, Value]) -> Any:
    """Translates an argument: a node to its Value, a dtype or device to its name."""
    if isinstance(x, Node):
        return places[x]
    if isinstance(x, list | tuple):
        return [_plain(y, places=places) for y in x]
    if x is None or isinstance(x, bool | int | float | complex | str):
        return x
    return str(x).removeprefix("torch.")


def _shaped_or_none(x: Tensor | None) -> Shaped | None:
    """Describes one of several results."""
    return None if x is None else _shaped(x)


def _shaped(x: Tensor) -> Shaped:
    """Describes a tensor."""
    return Shaped(tuple(x.shape), str(x.dtype).removeprefix("torch."))
