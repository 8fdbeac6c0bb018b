"""`pure.serial.reader` on untrusted bytes: a tree or SerialError, at little cost in time and memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pure import tree
from pure.serial.reader import read
from pure.serial.serial import SerialError, from_bytes, to_bytes
from tests.pure.bombs import BOMBS, array, chunked, ext
from tests.pure.trees import Pair, identical, trees

HOSTILE = {  # case -> bytes, and a pattern of the error
    "nothing": (b"", "ends early"),
    "an unknown extension": (ext(4, b"1234"), "extension type 4 is unknown"),
    "a negative extension": (b"\xd6\xff\0\0\0\0", "extension type 255"),
    "bytes after the end": (msgpack.packb({}) + b"\0", "1 bytes follow"),
    "a key twice": (b"\x82\xa1a\x01\xa1a\x02", "'a' appears twice"),
    "a number for a key": (b"\x81\x01\x02", "expected msgpack tag"),
    "bytes for a key": (b"\x81\xc4\x01a\x02", "expected msgpack tag"),
    "an array": (msgpack.packb([1, 2]), "got msgpack tag 0x92"),
    "bytes": (msgpack.packb(b"abc"), "got msgpack tag 0xc4"),
    "tag 0xc1": (b"\xc1", "got msgpack tag 0xc1"),
    "a shape of -1": (array((-1,), "int8", b"12"), "from 0 to 2\\^63"),
    "a negative shape whose product fits": (array((-1, -2), "int8", b"12"), "from 0 to 2\\^63"),
    "too few bytes": (array((3,), "int16", b"12"), "takes 6 bytes, but the header says 2"),
    "too many bytes": (array((1,), "int8", b"12"), "takes 1 bytes, but the header says 2"),
    "an extension longer than its array": (
        ext(1, msgpack.packb(((1,), "int8", b"1")) + b"\0"),
        "in an extension of",
    ),
    "an enormous shape": (array((2**40, 2**40), "int8", b"12"), "takes 1208925819614629174706176 bytes"),
    "an enormous empty shape": (array((0, 2**62, 2**62), "int8", b""), "larger than"),
    "a float in a shape": (array((1.0,), "int8", b"1"), "expected an integer"),
    "a bool in a shape": (array((True,), "int8", b"1"), "expected an integer"),
    "too many axes": (array((1,) * 65, "int8", b"1"), "64 axes"),
    "no array inside": (ext(1, msgpack.packb({})), "must be \\[shape, dtype, bytes\\]"),
    "an object": (array((1,), "object", b"12345678"), "dtype 'object' is not allowed"),
    "a structured dtype": (array((1,), "S8,f4", b"0" * 12), "dtype 'S8,f4' is not allowed"),
    "a big-endian dtype": (array((1,), ">f4", b"1234"), "dtype '>f4' is not allowed"),
    "a torch name that is no dtype": (array((1,), "load", b"1234"), "dtype 'load' is not allowed"),
    "a long dtype": (array((1,), "f" * 40, b"1234"), "at most 32 bytes"),
    "a shape that is a map": (array({}, "int8", b"1"), "expected msgpack tag"),
    "a string for bytes": (array((1,), "int8", "1"), "expected msgpack tag"),
    "a bool of 2": (array((2,), "bool", b"\0\2"), "other than 0 and 1"),
    "a scalar with a shape": (ext(3, msgpack.packb(((1,), "int8", b"1"))), "must have shape \\[\\]"),
    "half a complex number": (ext(2, msgpack.packb((1.0,))), "array of two float64"),
    "a complex number of ints": (ext(2, b"\x92\xcb" + b"0" * 8 + b"\xcf" + b"0" * 8), "array of two float64"),
    "a string that is no UTF-8": (b"\xa1\xff", "not valid UTF-8"),
    "a string longer than the data": (b"\xdb\0\x0f\xff\xff", "ends early"),
    "a string longer than allowed": (b"\xdb\xff\xff\xff\xff", "at most 1048576 bytes"),
    "a key longer than allowed": (b"\x81\xda\xff\xff", "at most 4096 bytes"),
    "a map longer than the data": (b"\xdf\xff\xff\xff\xff\xa1a\x01", "ends early"),
    "an extension longer than the data": (
        b"\xc9\xff\xff\xff\xff\x01\x93\x91\x01\xa4int8\xc6\xff\xff\xff\xf0",
        "takes 1 bytes",
    ),
    "deep maps": (b"\x81\xa1a" * 100 + b"\xc0", "nested deeper than 64"),
    "deep arrays": (b"\x91" * 5000, "got msgpack tag 0x91"),
    "chunks: another order": (
        b"\x83\xa5shape\x80\xb9__msgpack_chunked_array__\xc3\xa6chunks\x80",
        "must be {marker: true, shape, chunks}",
    ),
    "chunks: marker false": (chunked((1,), []).replace(b"__\xc3", b"__\xc2"), "must be {marker: true"),
    "chunks: none": (chunked((1,), []), "chunks hold 0 bytes"),
    "chunks: too few": (chunked((9,), [array((2,), "int8", b"12")]), "larger than the 2 bytes left"),
    "chunks: too few, and more data": (
        b"\x82\xa1a" + chunked((9,), [array((2,), "int8", b"12")]) + b"\xa1b\xa8" + b"x" * 8,
        "chunks hold 2 bytes",
    ),
    "chunks: too many": (
        chunked((2,), [array((2,), "int8", b"12"), array((1,), "int8", b"3")]),
        "does not fit",
    ),
    "chunks: two dtypes": (
        chunked((2,), [array((1,), "int8", b"1"), array((1,), "uint8", b"2")]),
        "does not fit",
    ),
    "chunks: not flat": (chunked((2,), [array((1, 2), "int8", b"12")]), "does not fit"),
    "chunks: negative": (chunked((-2,), [array((2,), "int8", b"12")]), "from 0 to 2\\^63"),
    "chunks: enormous": (chunked((2**62,), [array((2,), "int8", b"12")]), "larger than"),
    "chunks: keys": (chunked((2,), [array((2,), "int8", b"12")], keys="10"), "in order"),
    "chunks: a scalar": (chunked((1,), [ext(3, msgpack.packb(((), "int8", b"1")))]), "must be an array"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused(name: str) -> None:
    data, message = HOSTILE[name]
    with pytest.raises(SerialError, match=message):
        from_bytes(None, data)
    if name not in ("nothing", "bytes after the end", "deep maps", "chunks: too few, and more data"):
        with pytest.raises(SerialError, match="^layers/0/w: .*" + message):
            from_bytes(None, b"\x81\xa6layers\x81\xa10\x81\xa1w" + data)


def test_every_truncation_and_extension_is_refused() -> None:
    target = {"a": [torch.ones(3), 5], "b": Pair(torch.tensor(1), "x"), "c": 1 + 2j}
    data = to_bytes(target, chunk_bytes=8)
    for n in range(len(data)):
        with pytest.raises(SerialError):
            from_bytes(target, data[:n])
    with pytest.raises(SerialError):
        from_bytes(target, data + b"\0")


def test_every_flipped_bit_raises_serial_error_or_gives_a_tree_of_the_same_structure() -> None:
    target = {"a": [torch.ones(3), 5], "b": Pair(torch.tensor(True), "x"), "c": 1 + 2j}
    data = to_bytes(target, chunk_bytes=8)
    refused = 0
    expected = tree.map(torch.zeros_like, tensors_only(target))  # shapes and dtypes, without the values
    for i in range(8 * len(data)):
        bad = bytearray(data)
        bad[i // 8] ^= 1 << i % 8
        try:
            assert identical(tree.map(torch.zeros_like, tensors_only(from_bytes(target, bad))), expected)
        except SerialError:
            refused += 1
    assert refused > 4 * len(data)  # in so small a tree most bits are structure, not values


def tensors_only(value: Any) -> Any:
    """Drop all leaves of a tree that are no tensors."""
    return tree.partition(lambda path, x: isinstance(x, Tensor), value)[0]


def read_or_refuse(target: Any, data: bytes) -> str:
    """Reads; returns the message of our error, or "". Any other error passes through and fails the test."""
    try:
        if target is None:
            read(io.BytesIO(data), len(data))
        else:
            from_bytes(target, data)
    except SerialError as error:
        return str(error)
    return ""


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_raise_no_error_but_serial_error(data: bytes) -> None:
    for prefix in (b"", b"\x81\xa1w", b"\xc7\x20\x01\x93", b"\x81\xa1w\xc7\x16\x01\x93\x92"):
        assert len(read_or_refuse(None, prefix + data)) < 1000


@settings(max_examples=300)
@given(trees, st.data())
def test_mutated_bytes_of_a_tree_raise_no_error_but_serial_error(value: Any, draw: st.DataObject) -> None:
    data = bytearray(to_bytes(value, chunk_bytes=draw.draw(st.integers(1, 64))))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, len(data)))
        cut = draw.draw(st.integers(0, 3))
        data[place : place + cut] = draw.draw(st.binary(max_size=4))
    assert len(read_or_refuse(value, bytes(data))) < 1000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's measure of peak memory")
def test_hostile_input_costs_little_time_and_memory() -> None:
    root = Path(__file__).parents[3]
    process = subprocess.run(
        [sys.executable, "-m", "tests.pure.bombs"], cwd=root, capture_output=True, text=True, check=True
    )
    yardstick, costs = json.loads(process.stdout).values()
    assert set(costs) == set(BOMBS)
    for name, cost in costs.items():
        assert cost["message"], name
        assert cost["seconds"] < 5 * yardstick, name
        assert cost["memory"] < 3 * cost["size"] + 64 * 2**20, name  # besides the input itself
