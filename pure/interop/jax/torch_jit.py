"""A pure torch function that JAX computes: tensors in, tensors out; lowered and compiled between.

A training loop of torch can so take its steps in JAX. Where JAX computes on the CPU, tensors cross as views
of one memory, not copied: a leaf takes microseconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor

from pure import tree
from pure.interop.jax.arrays import numpy_from_tensor, to_torch
from pure.interop.jax.aten.table import TABLE
from pure.interop.jax.lower import Lowered, evaluate, prepare, trace_covered
from pure.interop.jax.program import Program, Value, from_bytes, to_bytes
from pure.types import Tree

STORED = 1 << 20
"""Bytes of constants up to which a program is stored; frozen weights are not written a second time."""


class Programs(NamedTuple):
    """A store of traced programs of one function.

    Fields:
        read: name -> bytes, or None if there is none.
        write: (name, bytes) -> None.
    """

    read: Callable[[str], bytes | None]
    write: Callable[[str, bytes], None]


class Compiled(NamedTuple):
    """A lowered function, compiled for one signature.

    Fields:
        run: (constants, leaves) -> the tensors among the result's leaves.
        constants: arrays; arguments of `run`, so that large ones are not copied into the code.
        result: the tree of results; its leaves are Values, numbers and strings.
    """

    run: Callable[[list, list], list]
    constants: list
    result: Tree


def jit_torch(function: Callable, *, programs: Programs | None = None) -> Callable:
    """Compiles a pure torch function by JAX.

    Args:
        function: pure, of positional trees of CPU tensors; what `pure.interop.jax.lower` can lower.
        programs: read before the function is traced, and written afterwards. A store belongs to one
            function: a program of another one would be taken for it.

    Returns:
        A function of the same tensors with the same results within rounding, in all dtypes (64-bit types are
        on inside). Its results are views of JAX's memory: read-only by agreement. They may share memory with
        arguments that the function returns unchanged.

    Raises:
        Uncovered, ValueError: as `lower`, on the first call with a new signature.

    Edge cases: other shapes or dtypes are traced and compiled again. A stored program that cannot be read is
        replaced.

    Example:
        >>> double = jit_torch(lambda x: {"y": 2 * x})
        >>> double(torch.tensor([1, 2**40]))
        {'y': tensor([            2, 2199023255552])}
    """
    ready: dict[Any, Compiled] = {}

    def call(*args: Tree) -> Tree:
        leaves, spec = tree.flatten(args)
        key = (spec, tuple((x.shape, x.dtype) if isinstance(x, Tensor) else (type(x), x) for x in leaves))
        with jax.enable_x64(True):
            if key not in ready:
                ready[key] = _compile(_program(function, args, programs))
            compiled = ready[key]
            results = compiled.run(compiled.constants, [_view(x) for x in leaves])
            tensors = iter([_tensor(x) for x in jax.block_until_ready(results)])
        return tree.map(lambda x: next(tensors) if isinstance(x, Value) else x, compiled.result)

    return call


def _compile(program: Program) -> Compiled:
    """Compiles a program; its constants are arguments."""
    values = [x for x in tree.leaves(program.result) if isinstance(x, Value)]
    lowered = prepare(program._replace(result=values), x64=True)
    held = lowered._replace(constants=[])
    return Compiled(jax.jit(partial(_run, held)), lowered.constants, program.result)


def _run(lowered: Lowered, constants: list, leaves: list) -> list:
    """Computes a program from its constants and the leaves of its arguments."""
    return evaluate(lowered, leaves, constants)


def _program(function: Callable, args: tuple[Tree, ...], programs: Programs | None) -> Program:
    """A stored program of this signature, or a new one, which is stored if its constants are small."""
    name = _name(args)
    stored = None if programs is None else programs.read(name)
    if stored is not None:
        try:
            program = from_bytes(stored)
        except ValueError:
            pass
        else:
            if all(operation.name in TABLE for operation in program.operations):
                return program
    program = trace_covered(function, (args, {}), x64=True)
    storable = all(operation.name in TABLE for operation in program.operations)
    small = sum(x.numel() * x.element_size() for x in program.constants) <= STORED
    if programs is not None and storable and small:
        programs.write(name, to_bytes(program))
    return program


def _name(args: tuple[Tree, ...]) -> str:
    """A digest of structure, shapes and dtypes."""
    leaves = [(tuple(x.shape), str(x.dtype)) if isinstance(x, Tensor) else x for x in tree.leaves(args)]
    return hashlib.sha256(repr((tree.paths(args), tree.structure(args), leaves)).encode()).hexdigest()


def _view(x: Any) -> Any:
    """A tensor as a numpy array of the same memory; other leaves are constants of the program."""
    if not isinstance(x, Tensor):
        return 0
    return numpy_from_tensor(x.detach())


def _tensor(x: jax.Array) -> Tensor:
    """An array as a tensor of the same memory on the CPU; a copy from another device."""
    if next(iter(x.devices())).platform != "cpu":
        return to_torch(np.asarray(x))
    return torch.from_dlpack(x)
