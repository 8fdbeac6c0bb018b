"""Wire format between two jails: plain values, one line of JSON per message. (Runs inside a jail.)

None, bool, int, float, str and list are JSON's own; a type that JSON lacks is an object whose one key names
the type: {"tuple": [1, 2]}, {"float": "nan"}. Only plain values can be sent, so that no object of a candidate
(one that equals everything, or an int subclass that overrides ==) reaches the tests. Decoding never evaluates
code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 4 * 2**20  # bytes of a message
DEEPEST = 100  # nested containers
SMALL = 2**63  # integers below it are decimal; Python limits the length of decimal integers


def encode(value: Any) -> bytes:
    """Encode a value as a line.

    Subclasses are encoded as the plain value that they hold (a Counter as a dict, a named tuple as a tuple),
    without calling any method that they define.

    Args:
        value: None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict and range,
            nested in any way.

    Returns:
        ASCII, with one newline, at the end.

    Raises:
        ValueError: if a part is of another type, or the value is too deep (perhaps it contains itself) or too
            large.

    Example:
        >>> encode({1: (2.0, {3})})
        b'{"dict":[[1,{"tuple":[2.0,{"set":[3]}]}]]}\\n'
        >>> encode(iter("ab"))
        Traceback (most recent call last):
        ValueError: a str_ascii_iterator, which is no plain value
    """
    budget = [LONGEST]
    line = (
        json.dumps(_to_json(value, DEEPEST, budget), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    )
    if len(line) > LONGEST:
        raise ValueError(f"a value of {len(line)} bytes, of which at most {LONGEST} can be sent")
    return line


def decode(line: bytes) -> Any:
    """Decode a value from an untrusted line.

    Raises:
        ValueError: if the line is not a plain value. (It may differ from what `encode` writes: other white
            space, or an element of a set twice.)

    Example:
        >>> decode(b'[1,{"set":["a"]},{"float":"inf"}]')
        [1, {'a'}, inf]
        >>> decode(b'{"print":[1]}')
        Traceback (most recent call last):
        ValueError: no plain value: print
    """
    try:
        return json.loads(
            line.decode("ascii"),
            object_pairs_hook=_read_object,
            parse_int=_parse_int,
            parse_float=_parse_float,
            parse_constant=_refuse,
        )
    except (TypeError, RecursionError) as error:  # unhashable elements; too deep nesting
        raise ValueError(f"no plain value: {error}") from None


def send(pipe: int, line: bytes) -> None:
    """Write a line to a pipe; raises BrokenPipeError if its other end is closed."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def receive(pipe: int, pending: bytearray) -> bytes | None:
    """Read a line from a pipe.

    Args:
        pipe: to read from.
        pending: bytes read after the previous line; modified.

    Returns:
        The line, or None if the pipe ended without one.

    Raises:
        ValueError: if the line is too long.
    """
    searched = 0
    while (end := pending.find(b"\n", searched)) < 0:
        searched = len(pending)
        if searched > LONGEST:
            raise ValueError(f"an answer of more than {LONGEST} bytes")
        chunk = os.read(pipe, 2**16)
        if not chunk:
            return None
        pending += chunk
    line = bytes(pending[:end])
    del pending[: end + 1]
    return line


def _to_json(value: Any, depth: int, budget: list[int]) -> Any:
    """Convert a value for json; `budget` is the size left, which also bounds repeated parts."""
    budget[0] -= 4
    if budget[0] < 0 or depth < 0:
        raise ValueError("a value that is too " + ("deep, or contains itself" if depth < 0 else "large"))
    if value is None or value is True or value is False:
        return value
    for kind, write in WRITERS:
        if issubclass(type(value), kind):  # isinstance would read the value's own __class__
            return write(value, lambda item: _to_json(item, depth - 1, budget), budget)
    raise ValueError(f"a {type(value).__name__}, which is no plain value")


def _write_int(value: int, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    value = int.__pos__(value)
    budget[0] -= value.bit_length() // 4
    return value if -SMALL < value < SMALL else {"int": hex(value)}


def _write_float(value: float, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    value = float.__pos__(value)
    return value if math.isfinite(value) else {"float": repr(value)}


def _write_str(value: str, convert: Callable[[Any], Any], budget: list[int]) -> str:
    budget[0] -= str.__len__(value)
    return str.__str__(value) if budget[0] >= 0 else convert(None)  # raises: too large


def _write_bytes(value: bytes, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    budget[0] -= 2 * bytes.__len__(value)
    return {"bytes": bytes.hex(value)} if budget[0] >= 0 else convert(None)  # raises: too large


def _write_complex(value: complex, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {
        "complex": [
            convert(float(part)) for part in (complex.real.__get__(value), complex.imag.__get__(value))
        ]
    }


def _write_list(value: list, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return [convert(item) for item in list.__iter__(value)]


def _write_tuple(value: tuple, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {"tuple": [convert(item) for item in tuple.__iter__(value)]}


def _write_set(value: set, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {"set": [convert(item) for item in set.__iter__(value)]}


def _write_frozenset(value: frozenset, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {"frozenset": [convert(item) for item in frozenset.__iter__(value)]}


def _write_dict(value: dict, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {"dict": [[convert(key), convert(item)] for key, item in dict.items(value)]}


def _write_range(value: range, convert: Callable[[Any], Any], budget: list[int]) -> Any:
    return {"range": [convert(value.start), convert(value.stop), convert(value.step)]}


WRITERS: tuple[tuple[type, Callable[[Any, Callable[[Any], Any], list[int]], Any]], ...] = (
    (str, _write_str),
    (int, _write_int),
    (float, _write_float),
    (list, _write_list),
    (tuple, _write_tuple),
    (dict, _write_dict),
    (set, _write_set),
    (frozenset, _write_frozenset),
    (bytes, _write_bytes),
    (complex, _write_complex),
    (range, _write_range),
)


def _read_int(inner: Any) -> int:
    value = int(inner, 16)
    if not isinstance(inner, str) or hex(value) != inner or -SMALL < value < SMALL:
        _refuse(repr(inner))
    return value


def _read_float(inner: Any) -> float:
    return float(inner) if inner in ("nan", "inf", "-inf") else _refuse(repr(inner))


def _read_complex(inner: Any) -> complex:
    real, imaginary = inner
    return complex(real, imaginary) if type(real) is type(imaginary) is float else _refuse("complex")


def _read_range(inner: Any) -> range:
    return range(*inner) if isinstance(inner, list) and len(inner) == 3 else _refuse("range")


def _read_items(inner: Any) -> list:
    return inner if isinstance(inner, list) else _refuse(type(inner).__name__)


READERS: Mapping[str, Callable[[Any], Any]] = {
    "tuple": lambda inner: tuple(_read_items(inner)),
    "set": lambda inner: set(_read_items(inner)),
    "frozenset": lambda inner: frozenset(_read_items(inner)),
    "dict": lambda inner: dict(map(_read_items, _read_items(inner))),
    "bytes": lambda inner: bytes.fromhex(inner),
    "complex": _read_complex,
    "range": _read_range,
    "int": _read_int,
    "float": _read_float,
}


def _read_object(pairs: list[tuple[str, Any]]) -> Any:
    """Read the value of an object with one key."""
    if len(pairs) != 1 or pairs[0][0] not in READERS:
        _refuse(", ".join(key for key, _ in pairs[:3]))
    return READERS[pairs[0][0]](pairs[0][1])


def _parse_int(text: str) -> int:
    return int(text) if len(text) <= 20 else _refuse("a long integer")


def _parse_float(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _refuse(text)


def _refuse(text: str) -> Any:
    raise ValueError(f"no plain value: {text[:100]}")
