"""GGUF's container: the fields and the list of weights at the head of a file's bytes.

The `gguf` package reads it too, but makes a numpy object for each part of a hundred thousand strings, which
takes longer than all the weights; and it does not check lengths. Here each length is compared with the rest
of the file.

Source: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from pure.number import is_int

MAGIC = b"GGUF"
NUMBERS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Type of a value -> its letter in `struct`."""

STRING, ARRAY = 8, 9
DEEPEST, MOST_AXES = 4, 8


class Entry(NamedTuple):
    """One weight of the list.

    Fields:
        name: as written.
        shape: of the numbers, outermost axis first (the file has it the other way round).
        kind: ggml's number of the quantisation.
        start: first byte, counted from the file's beginning.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


class _Place(NamedTuple):
    """A value, and where the next one begins."""

    value: Any
    end: int


def parse(data: memoryview | bytes) -> tuple[dict[str, Any], list[Entry]]:
    """Reads the head of a file.

    Args:
        data: all bytes of the file, mapped or read.

    Returns:
        ({field: number, bool, str or list}, the weights in the file's order).

    Raises:
        ValueError: if it is not a GGUF file of version 2 or 3, ends too early, or has impossible values.

    Example:
        >>> parse(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sIB", 1, b"n", 0, 7))
        ({'n': 7}, [])
    """
    if bytes(data[:4]) != MAGIC:
        raise ValueError(f"a GGUF file begins with {MAGIC!r}, this one with {bytes(data[:4])!r}")
    try:
        version, weights, count = struct.unpack_from("<IQQ", data, 4)
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported, only 2 and 3 (little-endian)")
        fields, at = _fields(data, count)
        return fields, _entries(data, at, weights, fields.get("general.alignment", 32))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the file ends too early or is damaged ({error})") from None


def _fields(data: memoryview | bytes, count: int) -> _Place:
    """Reads {name: value}."""
    fields: dict[str, Any] = {}
    at = 24
    for _ in range(_possible(count, 13, data, at)):
        name, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if name in fields:
            raise ValueError(f"field {name!r} stands there twice")
        fields[name], at = _value(data, at + 4, kind, 0)
    return _Place(fields, at)


def _entries(data: memoryview | bytes, at: int, count: int, alignment: Any) -> list[Entry]:
    """Reads the list of weights; their offsets count from the first aligned byte after the list."""
    rows: list[tuple] = []
    for _ in range(_possible(count, 24, data, at)):
        name, at = _string(data, at)
        (axes,) = struct.unpack_from("<I", data, at)
        if axes > MOST_AXES:
            raise ValueError(f"weight {name!r} has {axes} axes; at most {MOST_AXES} are possible")
        shape = struct.unpack_from(f"<{axes}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * axes)
        at += 16 + 8 * axes
        rows.append((name, shape[::-1], kind, offset))
    if not is_int(alignment) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"general.alignment: expected a number of bytes, got {alignment!r}")
    first = math.ceil(at / alignment) * alignment
    if len({name for name, *_ in rows}) != len(rows):
        raise ValueError("two weights have the same name")
    return [Entry(name, shape, kind, first + offset) for name, shape, kind, offset in rows]


def _value(data: memoryview | bytes, at: int, kind: int, depth: int) -> _Place:
    """Reads one value of a type."""
    if kind == STRING:
        return _string(data, at)
    if kind in NUMBERS:
        (value,) = struct.unpack_from(f"<{NUMBERS[kind]}", data, at)
        return _Place(value, at + struct.calcsize(NUMBERS[kind]))
    if kind != ARRAY or depth == DEEPEST:
        raise ValueError(f"a value has the type {kind}, which is unknown, or lists are nested too deeply")
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in NUMBERS:
        size = struct.calcsize(NUMBERS[inner])
        _possible(count, size, data, at)
        return _Place(list(struct.unpack_from(f"<{count}{NUMBERS[inner]}", data, at)), at + size * count)
    values = []
    for _ in range(_possible(count, 8, data, at)):
        value, at = _value(data, at, inner, depth + 1)
        values.append(value)
    return _Place(values, at)


def _string(data: memoryview | bytes, at: int) -> _Place:
    """Reads a length and a text of so many bytes in UTF-8."""
    (length,) = struct.unpack_from("<Q", data, at)
    _possible(length, 1, data, at + 8)
    return _Place(str(data[at + 8 : at + 8 + length], "utf-8"), at + 8 + length)


def _possible(count: int, size: int, data: memoryview | bytes, at: int) -> int:
    """Returns the count, if so many elements of at least `size` bytes fit into the rest of the file."""
    if count * size > len(data) - at:
        raise ValueError(
            f"the file ends too early or is damaged: {count} elements of {size} bytes cannot follow byte {at}"
        )
    return count
