"""A traced function as plain data: names of operations, their arguments, and the shapes of their results.

A Program holds no code, so that it can be evaluated by another library and written to disk.
"""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import torch
from torch import Tensor

from pure.serial.writer import memory
from pure.types import Tree

CROSSING = "intro2llm.jax_function.default"
"""The operation that calls a JAX function (`pure/interop/jax/opaque.py`)."""

VERSION = 1
"""Version of the bytes; those of another version are refused."""


@dataclass(frozen=True)
class Value:
    """A tensor of the program: number `index` of arguments, then constants, then operations.

    `item` is the number of the result, for an operation with several.
    """

    index: int
    item: int | None = None


@dataclass(frozen=True)
class Shaped:
    """Shape and dtype ("float32") of a tensor: a leaf of a tree."""

    shape: tuple[int, ...]
    dtype: str


class Operation(NamedTuple):
    """A call of an ATen operation without side effects.

    Fields:
        name: its overload, such as "mul.Tensor".
        args, kwargs: numbers, strings (names of dtypes, devices and layouts), None, Values, and lists of
            them.
        result: of its only result; a list for an operation that returns several, None where one is absent.
    """

    name: str
    args: list
    kwargs: dict[str, Any]
    result: Shaped | list[Shaped | None]


class Program(NamedTuple):
    """A traced function of a fixed structure, fixed shapes and fixed dtypes.

    Fields:
        arguments: for each leaf of the arguments, its Shaped, or the number or string that it was.
        constants: tensors that the function has bound or made.
        operations: in the order in which they are computed.
        result: the tree of results; its leaves are Values, or numbers and strings.
    """

    arguments: list
    constants: list[Tensor]
    operations: list[Operation]
    result: Tree


def inputs(operation: Operation) -> Iterator[Value]:
    """Iterates over the values that an operation takes."""
    pending: list[Any] = [operation.args, list(operation.kwargs.values())]
    while pending:
        x = pending.pop()
        if isinstance(x, Value):
            yield x
        elif isinstance(x, list):
            pending.extend(x)


def to_bytes(program: Program) -> bytes:
    """Serialises a program.

    Args:
        program: of tensors of any dtype that torch shares with numpy.

    Returns:
        A checksum and the program, which `from_bytes` reads.

    Raises:
        ValueError: if a number in it cannot be written, such as a complex one, or it calls a JAX function,
            which is found by its number in this process alone.

    Example:
        >>> program = Program([Shaped((2,), "float32")], [], [], {"x": Value(0)})
        >>> from_bytes(to_bytes(program)) == program
        True
    """
    if any(operation.name == CROSSING for operation in program.operations):
        raise ValueError(
            "program: it calls a function of jax_fn_in_torch, which cannot be written; trace it again"
        )
    document = {
        "version": VERSION,
        "arguments": [_encode(x) for x in program.arguments],
        "constants": [
            [_dtype_name(x), list(x.shape), bytes(memory(x.contiguous()))] for x in program.constants
        ],
        "operations": [_encode(list(operation)) for operation in program.operations],
        "result": _encode_tree(program.result),
    }
    try:
        packed = msgpack.packb(document)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"program: expected numbers of at most 64 bits and strings, got {error}") from error
    return hashlib.sha256(packed).digest() + packed


def from_bytes(data: bytes) -> Program:
    """Restores a program.

    Args:
        data: as `to_bytes` made them.

    Returns:
        The same program.

    Raises:
        ValueError: for other bytes, another version, or a NamedTuple whose module has not been imported.

    Edge cases: classes of NamedTuples are looked up among the imported modules; nothing is imported.
    """
    digest, packed = data[:32], data[32:]
    try:
        if hashlib.sha256(packed).digest() != digest:
            raise ValueError("the checksum differs")
        document = msgpack.unpackb(packed, strict_map_key=False)
        if document["version"] != VERSION:
            raise ValueError(f"expected version {VERSION}, got {document['version']!r}")
        return Program(
            [_decode(x) for x in document["arguments"]],
            [_tensor(*x) for x in document["constants"]],
            [Operation(*_decode(x)) for x in document["operations"]],
            _decode_tree(document["result"]),
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, msgpack.UnpackException) as error:
        raise ValueError(
            f"program: these bytes are not a program of this version ({error}); trace again"
        ) from error


def _dtype_name(x: Tensor) -> str:
    """torch.float32 -> "float32"."""
    return str(x.dtype).removeprefix("torch.")


def _tensor(dtype: str, shape: list[int], data: bytes) -> Tensor:
    """A tensor of its own memory."""
    kind = getattr(torch, dtype)
    flat = torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)
    return flat.reshape(shape)


def _encode(x: Any) -> Any:
    """Replaces Values and Shapeds by maps with one key."""
    if isinstance(x, Value):
        return {"value": [x.index, x.item]}
    if isinstance(x, Shaped):
        return {"shaped": [list(x.shape), x.dtype]}
    if isinstance(x, dict):
        return {"map": {key: _encode(value) for key, value in x.items()}}
    return [_encode(y) for y in x] if isinstance(x, list) else x


def _decode(x: Any) -> Any:
    """Inverts `_encode`."""
    if isinstance(x, list):
        return [_decode(y) for y in x]
    if not isinstance(x, dict):
        return x
    ((kind, body),) = x.items()
    if kind == "value":
        return Value(*body)
    return Shaped(tuple(body[0]), body[1]) if kind == "shaped" else {k: _decode(v) for k, v in body.items()}


def _encode_tree(node: Tree) -> Any:
    """Replaces the containers of a tree by [kind, ...]."""
    if node is None:
        return None
    if isinstance(node, dict):
        kind = "ordered" if isinstance(node, OrderedDict) else "dict"
        return [kind, [[key, _encode_tree(child)] for key, child in node.items()]]
    if isinstance(node, list | tuple):
        children = [_encode_tree(child) for child in node]
        if hasattr(node, "_fields"):
            return ["named", type(node).__module__, type(node).__qualname__, list(node._fields), children]
        return ["list" if isinstance(node, list) else "tuple", children]
    return ["leaf", _encode(node)]


def _decode_tree(node: Any) -> Tree:
    """Inverts `_encode_tree`."""
    if node is None:
        return None
    kind, *rest = node
    if kind == "leaf":
        return _decode(rest[0])
    if kind in ("dict", "ordered"):
        return (dict if kind == "dict" else OrderedDict)((key, _decode_tree(child)) for key, child in rest[0])
    children = [_decode_tree(child) for child in rest[-1]]
    if kind == "named":
        return _named_tuple(*rest[:3])(*children)
    return children if kind == "list" else tuple(children)


def _named_tuple(module: str, name: str, fields: list[str]) -> type:
    """The class of a NamedTuple, from an imported module."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (
        isinstance(found, type) and issubclass(found, tuple) and list(getattr(found, "_fields", ())) == fields
    ):
        raise ValueError(f"expected the NamedTuple {module}.{name}({', '.join(fields)}) to be imported")
    return found
