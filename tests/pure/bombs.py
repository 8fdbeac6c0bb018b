"""Serialized inputs of a few megabytes that try to cost `pure.serial.reader` the most time and memory.

Run as a program, it prints their costs; `tests/pure/serial/test_reader.py` runs it in another process, as the
checks of types at every call of the test suite would take longer than the reader.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch

from pure.serial.reader import read
from pure.serial.writer import SerialError


def ext(code: int, payload: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, payload))


def array(shape: Any, dtype: Any, data: bytes) -> bytes:
    return ext(1, msgpack.packb((shape, dtype, data)))


def chunked(shape: Any, chunks: list[bytes], keys: str = "0123456789") -> bytes:
    head = b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape" + msgpack.packb(
        dict(zip(keys, shape, strict=False))
    )
    body = b"".join(msgpack.packb(k) + c for k, c in zip(keys, chunks, strict=False))
    return head + b"\xa6chunks" + bytes([0x80 | len(chunks)]) + body


def entries(count: int, value: bytes, size: int = 4) -> bytes:
    """A map whose header claims 2^31 entries and that has `count`, with different keys of `size` bytes."""
    body = []
    for i in range(count):
        hex_digits = bytes([65 + (i >> shift & 15) for shift in (16, 12, 8, 4, 0)])
        body.append(b"\xda" + size.to_bytes(2, "big") + hex_digits.rjust(size, b"k") + value)
    return b"\xdf\x80\0\0\0" + b"".join(body)


# Opcodes of msgpack: c0 nil; 80 an empty map, 81 one of one entry, df of 2^16 or more; a1 and da strings.
BOMBS: Mapping[str, Callable[[], bytes]] = {
    "entries": lambda: entries(2**17, b"\xc0", 5),
    "maps": lambda: entries(2**17, b"\x80", 5),
    "tensors": lambda: entries(2**16, array((), "int8", b"1"), 5),
    "entries in deep maps": lambda: b"\x81\xa1a" * 63 + entries(2**17, b"\xc0", 5),
    "strings": lambda: entries(160, msgpack.packb("\U0001f600" + "x" * 2**16), 5),
    "long keys": lambda: entries(4000, b"\xc0", 4096),
    "entries in deep maps with long keys": lambda: (
        (b"\x81\xda\x10\0" + b"k" * 4096) * 63 + entries(2**17, b"\xc0", 5)
    ),
    "an array of one byte too few": lambda: array((2**24,), "uint8", bytes(2**24))[:-1],
    "a bool array that ends in a 2": lambda: array((2**24,), "bool", bytes(2**24 - 1) + b"\2"),
    "chunks of one byte": lambda: (
        chunked((2**20,), []).removesuffix(b"\x80")
        + b"\xdf\0\x10\0\0"
        + b"".join(msgpack.packb(str(i)) + array((1,), "int8", b"1") for i in range(2**17))
        + bytes(2**20)
    ),
    "a string of 16 MiB": lambda: msgpack.packb("x" * 2**24),
}


def read_bomb(name: str) -> dict[str, Any]:
    """Read a bomb; return seconds of CPU, peak memory beyond the input in bytes, and the error's message."""
    data, message = BOMBS[name](), ""
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
    before, start = resident("VmRSS"), time.process_time()
    try:
        read(io.BytesIO(data), len(data))
    except SerialError as error:
        message = str(error)
    seconds = time.process_time() - start
    return {"size": len(data), "seconds": seconds, "memory": resident("VmHWM") - before, "message": message}


def yardstick() -> float:
    """Seconds that this machine takes to make 131,072 small tensors, as many as the worst bomb has."""
    start = time.process_time()
    for i in range(2**17):
        torch.from_numpy(np.frombuffer(b"1", "int8").copy()).reshape(1), str(i)
    return time.process_time() - start


def resident(field: str) -> int:
    """Bytes of memory of this process: VmRSS is the current value, VmHWM the peak."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    json.dump({"yardstick": yardstick(), "costs": {name: read_bomb(name) for name in BOMBS}}, sys.stdout)
