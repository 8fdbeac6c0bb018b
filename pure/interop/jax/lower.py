"""Lowering of a pure torch function to a JAX function, which jits, differentiates, vmaps and shards.

The function is traced once for each structure, shapes and dtypes of its arguments. Each ATen operation of the
trace is evaluated by its entry in a table (`pure/interop/jax/aten/table.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor

from pure import tree
from pure.interop.jax.arrays import numpy_from_tensor
from pure.interop.jax.aten.result import Out
from pure.interop.jax.aten.table import TABLE
from pure.interop.jax.narrow import NARROW, find_wide, narrow_array, narrow_program
from pure.interop.jax.opaque import crossed
from pure.interop.jax.program import CROSSING, Operation, Program, Shaped, Value, inputs
from pure.interop.jax.trace import argument_name, run, trace
from pure.interop.jax.trace_modes import Uncovered, describe_uncovered
from pure.serial.writer import DTYPES
from pure.types import Tree

COVERED = frozenset([*TABLE, CROSSING])
"""Names of the operations that are evaluated."""


class Lowered(NamedTuple):
    """A program with its constants in JAX.

    Fields:
        program: the operations.
        constants: arrays, in the program's order.
        last: for each value, the number of the last operation that takes it.
    """

    program: Program
    constants: list
    last: list[int]


def lower(function: Callable, *examples: Tree, x64: bool = False, **named: Tree) -> Callable:
    """Lowers a pure torch function to a JAX function.

    A forward pass, a loss, an optimizer's update and a whole training step are such functions. The result
    composes with jax.jit, grad, vmap, checkpoint, shard_map and meshes, and runs where only JAX does.

    Args:
        function: pure, of trees of tensors. It may take gradients inside.
        examples: arguments to trace it with now: tensors, JAX or numpy arrays, or jax.ShapeDtypeStructs.
            Without them it is traced when it is called. Where an example is an int64 tensor, the int32 array
            of a call stands for it.
        x64: keep 64-bit types, which needs `jax.enable_x64(True)`. False computes int64 as int32 and float64
            as float32, which JAX does by default.
        named: keyword arguments among the examples.

    Returns:
        A function of the same arguments with JAX arrays as leaves, whose result has the same structure with
        JAX arrays. Numbers and strings among the leaves are constants: another number is traced again. Call
        it inside jax.jit; outside, it computes operation by operation.

    Raises:
        Uncovered: for an operation without an entry; the message names it and its line. When JAX
            differentiates a function with a torch.autograd.Function or a backward hook inside, which it would
            not see; gradients that torch takes inside are right.
        ValueError: for a function whose course depends on the numbers of a tensor, that writes into an
            argument, or that needs 64-bit integers although x64 is off; for a leaf that is no array.

    Edge cases: other shapes or dtypes are traced again. With x64 off, sums and products of int64 wrap at
        2³¹, numbers and constants beyond it are refused, and float64 has the precision of float32. What is
        computed under `torch.no_grad`, or detached, has gradient 0 in JAX too. A JAX function inside, from
        `jax_fn_in_torch`, is called as it is. Tensors that the function has bound, such as a module's
        weights, are constants from the first trace on, as under jax.jit: pass what changes as an argument.

    Example:
        >>> double = lower(lambda tree: {"y": tree["x"] * 2})
        >>> {name: y.tolist() for name, y in double({"x": jnp.array([1.0, 2.0])}).items()}
        {'y': [2.0, 4.0]}
    """
    programs: dict[Any, tuple[Lowered, set[str]]] = {}
    hints: dict[Any, list] = {}

    def find(spec: Any, described: list) -> tuple[Lowered, set[str]]:
        key = (spec, tuple(x if isinstance(x, Shaped) else (type(x), x) for x in described))
        if key not in programs:
            foreign: set[str] = set()
            program = trace_covered(function, tree.unflatten(spec, described), x64=x64, foreign=foreign)
            programs[key] = prepare(program, x64=x64), foreign
        return programs[key]

    def lowered(*args: Tree, **kwargs: Tree) -> Tree:
        given, spec = _describe((args, kwargs))
        leaves = _check_leaves((args, kwargs), x64)
        described = [_like_example(x, y) for x, y in zip(given, hints.get(spec, given), strict=True)]
        program, foreign = find(spec, described)
        return evaluate(program, _refuse_derivatives(leaves, foreign) if foreign else leaves)

    if examples or named:
        described, spec = _describe((examples, named))
        hints[spec] = described
        find(spec, described)
    setattr(lowered, "lowered_from", (lowered, function))  # noqa: B010 (read by jax_fn_in_torch)
    return lowered


def trace_covered(
    function: Callable, arguments: Tree, *, x64: bool = False, foreign: set[str] | None = None
) -> Program:
    """Traces a function; refuses an operation that cannot be evaluated, by name and line.

    Args:
        function: called as function(*args, **kwargs).
        arguments: (args, kwargs), of arrays, tensors, Shapeds, numbers and strings.
        x64: as in `lower`.
        foreign: as in `trace`.

    Returns:
        Program, of operations in the table.

    Raises:
        Uncovered: for an operation without an entry.
        ValueError: for an integer that needs 64 bits, with x64 off; and as `trace`.
    """
    described, spec = _describe(arguments)
    program = trace(function, tree.unflatten(spec, described), covered=COVERED, foreign=foreign)
    missing = next((x for x in program.operations if x.name not in COVERED), None)
    wide = None if x64 else find_wide(program)
    if missing is None and wide is None:
        return program
    lines: dict[tuple, str] = {}
    run(function, spec, described, {}, lines)
    if missing is not None:
        raise Uncovered(describe_uncovered(missing.name, _line_of(missing, lines)))
    assert wide is not None
    raise ValueError(f"lower: {_line_of(wide[0], lines)}: {wide[1]}")


def prepare(program: Program, *, x64: bool = False) -> Lowered:
    """Converts the constants of a program.

    Args:
        program: as `trace` makes it.
        x64: as in `lower`.

    Returns:
        Lowered.

    Raises:
        ValueError: for an integer that needs 64 bits, with x64 off; or if JAX has 64-bit types off, with x64
            on.
    """
    if x64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            "lower: x64=True needs JAX's 64-bit types, which are off; call it under `with "
            "jax.enable_x64(True):`, or set the environment variable JAX_ENABLE_X64=1"
        )
    if not x64:
        program = narrow_program(program)
    last = [-1] * (len(program.arguments) + len(program.constants) + len(program.operations))
    for number, operation in enumerate(program.operations):
        for value in inputs(operation):
            last[value.index] = number
    for value in tree.leaves(program.result):
        if isinstance(value, Value):
            last[value.index] = len(program.operations)
    with jax.ensure_compile_time_eval():
        return Lowered(program, [_to_array(x) for x in program.constants], last)


def evaluate(lowered: Lowered, leaves: list, constants: list | None = None) -> Tree:
    """Computes a program in JAX.

    Args:
        lowered: the program.
        leaves: those of the arguments, in the program's dtypes.
        constants: arrays in place of `lowered.constants`, so that they can be arguments of a jitted function.

    Returns:
        The tree of results.
    """
    program, last = lowered.program, lowered.last
    held = lowered.constants if constants is None else constants
    arrays = [jnp.asarray(x) if hasattr(x, "dtype") else x for x in leaves]
    values: dict[int, Any] = dict(enumerate([*arrays, *held]))
    first = len(values)

    def get_value(x: Any) -> Any:
        if isinstance(x, Value):
            value = values[x.index]
            return value if x.item is None else value[x.item]
        return [get_value(y) for y in x] if isinstance(x, list) else x

    for number, operation in enumerate(program.operations):
        kwargs = {key: get_value(x) for key, x in operation.kwargs.items()}
        entry = _call_crossed if operation.name == CROSSING else TABLE[operation.name]
        result = entry(_outs(operation.result), *get_value(operation.args), **kwargs)
        for value in inputs(operation):
            if last[value.index] == number:
                values.pop(value.index, None)
        if last[first + number] > number:
            values[first + number] = result
    return tree.map(get_value, program.result)


def _describe(arguments: Tree) -> tuple[list, Any]:
    """The leaves of the arguments as Shapeds and constants, and their structure."""
    leaves, spec = tree.flatten(arguments)
    return [_describe_leaf(x, name) for x, name in zip(leaves, tree.paths(arguments), strict=True)], spec


def _describe_leaf(x: Any, path: str) -> Any:
    """Shape and dtype of an array, or the number, string or Shaped itself."""
    if isinstance(x, Shaped | bool | int | float | complex | str) and not isinstance(x, np.generic):
        return x
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise ValueError(
            f"lower: {argument_name(path)}: expected an array, a number or a string, in trees of dicts, "
            f"lists, tuples and NamedTuples, got {type(x).__name__}; convert it to these"
        )
    dtype = str(x.dtype).removeprefix("torch.")
    if dtype.startswith("key<"):
        raise ValueError(
            f"lower: {argument_name(path)} is a typed key, and torch's functions take raw ones; give "
            "jax.random.key_data(key)"
        )
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise ValueError(
            f"lower: {argument_name(path)}: torch and JAX do not share the dtype {dtype}; cast it to one of "
            f"{known}"
        )
    return Shaped(tuple(x.shape), dtype)


def _check_leaves(arguments: Tree, x64: bool) -> list:
    """The leaves of the arguments of a call: arrays, of at most 32 bits with x64 off."""
    leaves = tree.leaves(arguments)
    for i, (x, path) in enumerate(zip(leaves, tree.paths(arguments), strict=True)):
        if isinstance(x, Tensor):
            raise ValueError(
                f"lower: {argument_name(path)} is a torch tensor, and a lowered function takes JAX arrays; "
                "convert the arguments with pure.interop.jax.to_jax"
            )
        if hasattr(x, "dtype") and not x64:
            leaves[i] = narrow_array(x, argument_name(path))
    return leaves


def _refuse_derivatives(leaves: list, foreign: set[str]) -> list:
    """The leaves; a derivative with respect to a float one is refused."""
    names = " and ".join(sorted(foreign))

    @jax.custom_jvp
    def pass_value(x: Any) -> Any:
        return x

    @pass_value.defjvp
    def refuse_derivative(primals: tuple, tangents: tuple) -> Any:
        raise Uncovered(
            f"lower: expected operations that JAX can differentiate, got {names}, whose backward pass JAX "
            "does not see; call the function with torch_fn_in_jax, or take the gradient inside with "
            "torch.func.grad"
        )

    return [
        pass_value(x) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact) else x for x in leaves
    ]


def _like_example(given: Any, example: Any) -> Any:
    """The given leaf; in the example's 64-bit dtype, if its own stands for that."""
    if isinstance(given, Shaped) and isinstance(example, Shaped) and NARROW.get(example.dtype) == given.dtype:
        return Shaped(given.shape, example.dtype)
    return given


def _line_of(operation: Operation, lines: Mapping[tuple, str]) -> str:
    """The line that an operation comes from."""
    numbers = [x for x in operation.args if isinstance(x, int | float)]
    packet = operation.name.partition(".")[0]
    alike = (line for (name, *_), line in lines.items() if name.partition(".")[0] == packet)
    return (
        lines.get((operation.name, *numbers))
        or lines.get((operation.name,))
        or next(alike, "an unknown line")
    )


def _call_crossed(out: tuple, number: int, arrays: list, form: str) -> list:
    """The entry of a JAX function that was called in torch: the function itself."""
    del form
    results = crossed(number)(arrays)
    return [x.astype(y.dtype) for x, y in zip(results, out, strict=True)]


def _outs(result: Any) -> Out | tuple:
    """Shape and dtype of an operation's result, as its entry takes them."""
    if isinstance(result, Shaped):
        return Out(result.shape, jnp.dtype(result.dtype))
    return tuple(None if x is None else _outs(x) for x in result)


def _to_array(x: Tensor) -> Any:
    """Copies a tensor to JAX."""
    return jnp.array(numpy_from_tensor(x.detach().cpu().contiguous()))
