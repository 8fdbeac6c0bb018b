"""Reader of Flax's dialect of msgpack, for untrusted bytes. (Written by `pure/serial/writer.py`.)

One recursive descent over a stream, which fills new tensors directly. It accepts only what Flax writes.

Formats: msgpack's specification (with its ext and bin types); Flax, `flax/serialization.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pure.serial.writer import (
    COMPLEX,
    DTYPES,
    MARKER,
    MAX_DEPTH,
    MAX_KEY,
    MAX_STRING,
    NDARRAY,
    SCALAR,
    SerialError,
    memory,
    name_of,
)

MAX_NODES = 2**15
"""Map entries that `read` accepts by default, so that a small file cannot become a large dict."""
_SIMPLE: Mapping[int, bool | None] = {0xC0: None, 0xC2: False, 0xC3: True}
_MAP: Mapping[int, int] = {0xDE: 2, 0xDF: 4}  # tag -> bytes of the length after it
_ARRAY: Mapping[int, int] = {0xDC: 2}
_STR: Mapping[int, int] = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BIN: Mapping[int, int] = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXT: Mapping[int, int] = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED: Mapping[int, int] = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}  # tag -> bytes of the payload
_TEXT_BYTES = 512  # bytes of keys and strings accepted for each entry, on average


@runtime_checkable
class Stream(Protocol):
    """A source of `read`: `io.BytesIO`, an open binary file, or a wrapper that also hashes."""

    def read(self, size: int, /) -> bytes: ...
    def readinto(self, buffer: memoryview, /) -> int | None: ...


class _Source(NamedTuple):
    """Checked reads from a stream, with limits on size, map entries and text."""

    take: Callable[[int], bytes]  # exactly n bytes, or SerialError
    fill: Callable[[memoryview], None]  # the whole buffer, or SerialError
    left: Callable[[], int]  # bytes not yet taken
    spend: Callable[[int, int], None]  # counts map entries and bytes of text, or SerialError
    trail: list[str]  # the keys of the current path


def read(stream: Stream, size: int, *, max_nodes: int = MAX_NODES) -> Any:
    """Reads a state dict from `size` bytes of a stream, directly into new tensors.

    Bytes may come from third parties, or from a disk that failed. So memory is allocated only for bytes that
    the input has, every length is checked before it is used, and input that Flax silently misreads
    (big-endian dtypes, structured dtypes, shapes of -1, duplicate keys) is an error.

    Args:
        stream: read from its current position; `readinto` must fill tensors with the raw bytes.
        size: exact size of the state dict in bytes.
        max_nodes: largest number of map entries, as each takes memory beyond its bytes; keys and strings
            together may have 512 bytes times this number.

    Returns:
        Nested dicts of CPU tensors (each with storage of its own), bool, int, float, complex, str and None.

    A map whose first key is the chunk marker is one tensor. Extension type 1 is a tensor, 2 a complex number
    and 3 a numpy scalar (read as a 0-d tensor). A tensor is allocated and filled if no size in its shape is
    negative, its dtype is one of `writer.DTYPES`, and the product of its shape times itemsize equals both the
    stated number of bytes and the rest of its extension.

    Edge cases: bool bytes other than 0 and 1 are refused, as torch's behaviour on them is undefined. Numbers
    may have any of msgpack's widths, though Flax writes the shortest.

    Raises:
        SerialError: for any other input; it names the path and what was expected.

    Example:
        >>> import io
        >>> read(io.BytesIO(bytes.fromhex("81a177d801939101a862666c6f61743136c402803f")), 21)
        {'w': tensor([1.], dtype=torch.bfloat16)}
    """
    source = _source(stream, size, max_nodes)
    try:
        value = _value(source, 0)
    except SerialError as error:
        where = "/".join(source.trail)
        raise SerialError(
            f"{where[:200] or 'at the root'}: {error} (byte {size - source.left()} of {size})"
        ) from None
    if source.left():
        raise SerialError(
            f"{source.left()} bytes follow the end of the state dict; cut them off, or read another file"
        )
    return value


def _source(stream: Stream, size: int, max_nodes: int) -> _Source:
    """Wraps a stream so that at most `size` bytes and `max_nodes` entries can be read."""
    left, nodes, text = size, max_nodes, max_nodes * _TEXT_BYTES

    def claim(n: int) -> None:
        nonlocal left
        if n > left:
            raise SerialError(f"the data ends early: {n} bytes expected, {left} left")
        left -= n

    def take(n: int) -> bytes:
        claim(n)
        data = stream.read(n)
        if len(data) != n:
            raise SerialError(f"the data ends early: {n} bytes expected, got {len(data)}")
        return data

    def fill(buffer: memoryview) -> None:
        claim(len(buffer))
        done = 0
        while done < len(buffer):
            count = stream.readinto(buffer[done:])
            if not count:
                raise SerialError(f"the data ends early: {len(buffer)} bytes expected, got {done}")
            done += count

    def spend(entries: int, text_bytes: int) -> None:
        nonlocal nodes, text
        nodes, text = nodes - entries, text - text_bytes
        if nodes < 0 or text < 0:
            raise SerialError(
                f"more than {max_nodes} entries, or {max_nodes * _TEXT_BYTES} bytes of keys and strings; "
                "pass a larger max_nodes to accept them"
            )

    return _Source(take, fill, lambda: left, spend, [])


def _value(source: _Source, depth: int) -> Any:
    """Reads the next value, by its tag."""
    tag = source.take(1)[0]
    if tag <= 0x7F or tag >= 0xE0 or 0xCC <= tag <= 0xD3:
        return _integer(source, tag)
    if tag >> 4 == 0x8 or tag in (0xDE, 0xDF):
        return _map(source, _length(source, tag, 0x80, 15, _MAP), depth)
    if tag in _EXT or tag in _FIXED:
        return _extension(source, *_extension_header(source, tag))
    if tag >> 5 == 0x5 or tag in _STR:
        return _string(source, tag, MAX_STRING)
    if tag in _SIMPLE:
        return _SIMPLE[tag]
    if tag == 0xCB:
        return struct.unpack(">d", source.take(8))[0]
    raise SerialError(f"expected a map, tensor, number, string or nil, got msgpack tag 0x{tag:02x}")


def _length(source: _Source, tag: int, base: int, mask: int, tags: Mapping[int, int]) -> int:
    """Reads a length: from the tag (base | length, if mask is not 0), or from the bytes after it (`tags`)."""
    if tag in tags:
        return int.from_bytes(source.take(tags[tag]), "big")
    if not mask or tag & ~mask != base:
        raise SerialError(
            f"expected msgpack tag {', '.join(f'0x{t:02x}' for t in (base, *tags))}, got 0x{tag:02x}"
        )
    return tag & mask


def _integer(source: _Source, tag: int) -> int:
    """Reads any of msgpack's integers."""
    if tag <= 0x7F:
        return tag
    if tag >= 0xE0:
        return tag - 256
    if not 0xCC <= tag <= 0xD3:
        raise SerialError(f"expected an integer, got msgpack tag 0x{tag:02x}")
    return int.from_bytes(source.take(1 << (tag & 3)), "big", signed=tag >= 0xD0)


def _string(source: _Source, tag: int, limit: int) -> str:
    """Reads a string of at most `limit` bytes."""
    size = _length(source, tag, 0xA0, 31, _STR)
    if size > limit:
        raise SerialError(f"a string of at most {limit} bytes expected here, got {size}")
    source.spend(0, size)
    try:
        return source.take(size).decode()
    except UnicodeDecodeError as error:
        raise SerialError(f"a string is not valid UTF-8: {error.reason}") from None


def _map(source: _Source, size: int, depth: int) -> Any:
    """Reads a dict, or the tensor of a chunked dict."""
    if depth >= MAX_DEPTH:
        raise SerialError(f"maps nested deeper than {MAX_DEPTH}")
    node: dict[str, Any] = {}
    for i in range(size):
        source.spend(1, 0)
        key = _string(source, source.take(1)[0], MAX_KEY)
        if key == MARKER:
            if i or size != 3 or _value(source, depth) is not True:
                raise SerialError("a chunked array must be {marker: true, shape, chunks}")
            return _chunked(source)
        if key in node:
            raise SerialError(f"the key {key[:100]!r} appears twice")
        source.trail.append(key)
        node[key] = _value(source, depth + 1)
        source.trail.pop()
    return node


def _chunked(source: _Source) -> Tensor:
    """Reads a chunked array after its marker: "shape" and "chunks", each with keys "0", "1", ..."""
    shape = tuple(_size(source) for _ in _indices(source, "shape"))
    tensor, done = None, 0
    for _ in _indices(source, "chunks"):
        length, code = _extension_header(source, source.take(1)[0])
        if code != NDARRAY:
            raise SerialError(f"a chunk must be an array (extension type 1), got extension type {code}")
        chunk_shape, dtype, nbytes = _array_header(source, length, source.left())
        if tensor is None:
            tensor = _empty(source, shape, dtype)
        if name_of(tensor.dtype) != dtype or len(chunk_shape) != 1 or done + nbytes > tensor.nbytes:
            raise SerialError(
                f"a chunk {dtype}{list(chunk_shape)} does not fit in {name_of(tensor.dtype)}{list(shape)}"
            )
        source.fill(memory(tensor)[done : done + nbytes])
        done += nbytes
    if tensor is None or done != tensor.nbytes:
        raise SerialError(f"chunks hold {done} bytes, which do not fill an array of shape {list(shape)}")
    return _check_bools(tensor)


def _indices(source: _Source, name: str) -> Iterator[int]:
    """Reads the keys "0", "1", ... of a map under the key `name`, one before each value."""
    if _string(source, source.take(1)[0], MAX_KEY) != name:
        raise SerialError(f"a chunked array must continue with the key {name!r}")
    for i in range(_length(source, source.take(1)[0], 0x80, 15, _MAP)):
        source.spend(1, 0)
        if _string(source, source.take(1)[0], MAX_KEY) != str(i):
            raise SerialError(f"the keys of {name!r} in a chunked array must be '0', '1', ... in order")
        yield i


def _extension_header(source: _Source, tag: int) -> tuple[int, int]:
    """Reads the header of an extension: (bytes inside, its type)."""
    length = _FIXED[tag] if tag in _FIXED else _length(source, tag, min(_EXT), 0, _EXT)
    return length, source.take(1)[0]


def _extension(source: _Source, length: int, code: int) -> Any:
    """Reads a tensor, a numpy scalar (as a 0-d tensor) or a complex number."""
    if code == COMPLEX:
        data = source.take(length) if length == 19 else b""
        if len(data) != 19 or data[:2] != b"\x92\xcb" or data[10:11] != b"\xcb":
            raise SerialError(
                f"a complex number must be an array of two float64, 19 bytes; got {length} bytes"
            )
        return complex(*struct.unpack(">d", data[2:10]), *struct.unpack(">d", data[11:]))
    if code not in (NDARRAY, SCALAR):
        raise SerialError(f"extension type {code} is unknown; expected 1 (array), 2 (complex) or 3 (scalar)")
    shape, dtype, _ = _array_header(source, length, source.left())
    if code == SCALAR and shape:
        raise SerialError(f"a numpy scalar must have shape [], got {list(shape)}")
    tensor = _empty(source, shape, dtype)
    source.fill(memory(tensor))
    return _check_bools(tensor)


def _array_header(source: _Source, length: int, left: int) -> tuple[tuple[int, ...], str, int]:
    """Reads shape, dtype and byte count of an array, which must agree with the length of its extension.

    `length` is that length; `left` is the number of bytes left in the source where the extension's payload
    begins.
    """
    if source.take(1)[0] != 0x93:
        raise SerialError("an array must be [shape, dtype, bytes]")
    rank = _length(source, source.take(1)[0], 0x90, 15, _ARRAY)
    if rank > MAX_DEPTH:
        raise SerialError(f"an array may have at most {MAX_DEPTH} axes, got {rank}")
    shape = tuple(_size(source) for _ in range(rank))
    dtype = _string(source, source.take(1)[0], 32)
    if dtype not in DTYPES:
        raise SerialError(f"dtype {dtype!r} is not allowed; expected one of {', '.join(DTYPES)}")
    nbytes = _length(source, source.take(1)[0], min(_BIN), 0, _BIN)
    expected = math.prod(shape) * getattr(torch, dtype).itemsize
    if nbytes != expected or left - source.left() + nbytes != length:
        raise SerialError(
            f"{dtype}{list(shape)} takes {expected} bytes, but the header says {nbytes}, in an extension of "
            f"{length}"
        )
    return shape, dtype, nbytes


def _size(source: _Source) -> int:
    """Reads the length of one axis."""
    size = _integer(source, source.take(1)[0])
    if not 0 <= size < 2**63:
        raise SerialError(f"an axis must have from 0 to 2^63 - 1 elements, got {size}")
    return size


def _empty(source: _Source, shape: tuple[int, ...], dtype: str) -> Tensor:
    """Allocates a tensor that the rest of the input can fill."""
    itemsize = getattr(torch, dtype).itemsize
    overflows = math.prod(max(size, 1) for size in shape) * itemsize >= 2**63
    if overflows or math.prod(shape) * itemsize > source.left():
        raise SerialError(f"{dtype}{list(shape)} is larger than the {source.left()} bytes left")
    return torch.empty(shape, dtype=getattr(torch, dtype))


def _check_bools(tensor: Tensor) -> Tensor:
    """Refuses a bool tensor with a byte other than 0 and 1."""
    if tensor.dtype == torch.bool and bool((tensor.view(torch.uint8) > 1).any()):
        raise SerialError("a bool array holds bytes other than 0 and 1")
    return tensor
