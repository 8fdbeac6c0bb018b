"""Read a GGUF file's header: its fields and its list of weights.

The `gguf` package reads it too, but makes several numpy objects for each of a hundred thousand strings, which
takes longer than reading all weights; and it does not check lengths. Here each length is compared with the
rest of the file.

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
MAX_DEPTH, MAX_AXES = 4, 8
"""Upper limits of lists in lists, and of the axes of a weight."""


class Entry(NamedTuple):
    """One weight of the list.

    Fields:
        name: as written.
        shape: of the numbers, outermost axis first (the file has it the other way round).
        kind: ggml's number of the type: a float format or a quantisation.
        start: first byte of its data, counted from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int


class _Parsed(NamedTuple):
    """A value, and the byte at which the next one begins."""

    value: Any
    end: int


def parse(data: memoryview | bytes) -> tuple[dict[str, Any], list[Entry]]:
    """Reads the header of a file.

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
        fields, at = _read_fields(data, count)
        return fields, _read_entries(data, at, weights, fields.get("general.alignment", 32))
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"the file ends too early or is damaged ({error})") from None


def _read_fields(data: memoryview | bytes, count: int) -> _Parsed:
    """Reads {name: value}."""
    fields: dict[str, Any] = {}
    at = 24  # after the magic, the version and the two counts
    for _ in range(_check_count(count, 13, data, at)):  # length of the name, type, one byte
        name, at = _read_string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if name in fields:
            raise ValueError(f"field {name!r} appears twice")
        fields[name], at = _read_value(data, at + 4, kind, 0)
    return _Parsed(fields, at)


def _read_entries(data: memoryview | bytes, at: int, count: int, alignment: Any) -> list[Entry]:
    """Reads the list of weights; their offsets count from the first aligned byte after the list."""
    entries: list[tuple] = []
    for _ in range(_check_count(count, 24, data, at)):  # length of the name, axes, kind, offset
        name, at = _read_string(data, at)
        (axes,) = struct.unpack_from("<I", data, at)
        if axes > MAX_AXES:
            raise ValueError(f"weight {name!r} has {axes} axes; at most {MAX_AXES} are possible")
        shape = struct.unpack_from(f"<{axes}Q", data, at + 4)
        kind, offset = struct.unpack_from("<IQ", data, at + 4 + 8 * axes)
        at += 16 + 8 * axes
        entries.append((name, shape[::-1], kind, offset))
    if not is_int(alignment) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"general.alignment: expected a number of bytes, got {alignment!r}")
    data_start = math.ceil(at / alignment) * alignment
    if len({name for name, *_ in entries}) != len(entries):
        raise ValueError("two weights have the same name")
    return [Entry(name, shape, kind, data_start + offset) for name, shape, kind, offset in entries]


def _read_value(data: memoryview | bytes, at: int, kind: int, depth: int) -> _Parsed:
    """Reads one value of the type with this number."""
    if kind == STRING:
        return _read_string(data, at)
    if kind in NUMBERS:
        (value,) = struct.unpack_from(f"<{NUMBERS[kind]}", data, at)
        return _Parsed(value, at + struct.calcsize(NUMBERS[kind]))
    if kind != ARRAY or depth == MAX_DEPTH:
        raise ValueError(f"a value has the type {kind}, which is unknown, or lists are nested too deeply")
    inner, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if inner in NUMBERS:
        size = struct.calcsize(NUMBERS[inner])
        _check_count(count, size, data, at)
        return _Parsed(list(struct.unpack_from(f"<{count}{NUMBERS[inner]}", data, at)), at + size * count)
    values = []
    for _ in range(_check_count(count, 8, data, at)):
        value, at = _read_value(data, at, inner, depth + 1)
        values.append(value)
    return _Parsed(values, at)


def _read_string(data: memoryview | bytes, at: int) -> _Parsed:
    """Reads a length in bytes, and a UTF-8 string of that length."""
    (length,) = struct.unpack_from("<Q", data, at)
    _check_count(length, 1, data, at + 8)
    return _Parsed(str(data[at + 8 : at + 8 + length], "utf-8"), at + 8 + length)


def _check_count(count: int, size: int, data: memoryview | bytes, at: int) -> int:
    """Returns the count, if so many elements of at least `size` bytes fit into the rest of the file."""
    if count * size > len(data) - at:
        raise ValueError(
            f"the file ends too early or is damaged: {count} elements of {size} bytes cannot follow byte {at}"
        )
    return count
