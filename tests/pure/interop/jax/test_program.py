"""Programs as plain data: bytes both ways, and bytes that are not theirs."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import NamedTuple

import msgpack
import pytest
import torch

from pure import tree
from pure.interop.jax.program import Operation, Program, Shaped, Value, from_bytes, inputs, to_bytes


class Pair(NamedTuple):
    first: object
    second: object


def example() -> Program:
    constants = [torch.tensor([[1.5, -0.0]], dtype=torch.bfloat16), torch.empty(0, 3), torch.tensor(2**40)]
    operations = [
        Operation("add.Tensor", [Value(0), Value(3)], {"alpha": float("inf")}, Shaped((1, 2), "float32")),
        Operation("cat.default", [[Value(4), Value(0)], -1], {}, Shaped((1, 4), "float32")),
        Operation("max.dim", [Value(5, None), 1], {}, [Shaped((1,), "float32"), Shaped((1,), "int64")]),
    ]
    result = Pair({"b": Value(6, 1), "a": None}, OrderedDict(z=[Value(0), ()], y=(7, "text", True, 0.1)))
    return Program([Shaped((1, 2), "float32"), 3, "mean"], constants, operations, result)


def test_bytes_keep_everything() -> None:
    program = example()
    back = from_bytes(to_bytes(program))
    assert back.arguments == program.arguments
    assert back.operations == program.operations
    assert tree.structure(back.result) == tree.structure(program.result)
    assert tree.leaves(back.result) == tree.leaves(program.result)
    assert type(back.result) is Pair
    for x, y in zip(back.constants, program.constants, strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert torch.equal(x, y)
    assert to_bytes(back) == to_bytes(program)


def test_inputs_are_found_in_lists_and_keywords() -> None:
    operation = Operation("f", [[Value(1), 2], Value(3, 1)], {"x": Value(4)}, Shaped((), "bool"))
    assert set(inputs(operation)) == {Value(1), Value(3, 1), Value(4)}


def summed(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest() + packed


def without(data: bytes, name: str) -> bytes:
    return summed(msgpack.packb({key: x for key, x in msgpack.unpackb(data[32:]).items() if key != name}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\xc1",
        lambda data: summed(msgpack.packb([1])),
        lambda data: data[32:],
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: without(data, "result"),
        lambda data: summed(data[32:].replace(b"bfloat16", b"bfloat17")),
        lambda data: summed(data[32:].replace(b"Pair", b"Pear")),
        lambda data: summed(data[32:].replace(b"second", b"zecond")),
        lambda data: summed(msgpack.packb(msgpack.unpackb(data[32:]) | {"version": 99})),
    ],
)
def test_other_bytes_are_refused(damage) -> None:
    with pytest.raises(ValueError, match=r"not a program of this version .* trace again"):
        from_bytes(damage(to_bytes(example())))


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers of at most 64 bits"):
        to_bytes(Program([1j], [], [], None))


def test_a_program_that_calls_jax_cannot_be_written() -> None:
    call = Operation(
        "intro2llm.jax_function.default", [3, [Value(0)], "float32"], {}, [Shaped((), "float32")]
    )
    with pytest.raises(ValueError, match="calls a function of jax_fn_in_torch, which cannot be written"):
        to_bytes(Program([Shaped((), "float32")], [], [call], {}))
