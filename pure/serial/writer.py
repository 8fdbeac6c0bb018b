"""Flax's dialect of msgpack, written as a stream that copies no tensor. (Read by `pure/serial/reader.py`.)

A state dict (nested `dict[str, ...]` whose leaves are tensors, Python numbers, strings or None) is written as
msgpack maps. A tensor is an extension of type 1, whose payload is again msgpack: `[shape, dtype's name, raw
bytes]`, row-major and little-endian. A tensor of more than 2^30 bytes is a map of flat chunks, as msgpack
limits the size of an extension. Most users need `pure/serial/serial.py`, which turns trees into state dicts
and bytes; a checkpoint uses the stream.

Formats: msgpack's specification (with its ext and bin types); Flax, `flax/serialization.py`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
import torch
from torch import Tensor

CHUNK_BYTES = 2**30
"""Flax's limit: a tensor of more bytes than this is written in chunks."""
MAX_DEPTH = 64
"""Largest depth of nested maps, and largest number of axes of a tensor."""
MAX_KEY = 4096
MAX_STRING = 2**20
"""Largest size in bytes of a key and of a string, the limits of the reader."""
MARKER = "__msgpack_chunked_array__"
"""The first key of a map that represents one large tensor."""
NDARRAY, COMPLEX, SCALAR = 1, 2, 3
"""msgpack extension types that Flax uses."""
DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""Names of the dtypes that torch shares with numpy (and ml_dtypes)."""


class SerialError(ValueError):
    """Bytes or a tree that the format does not allow. The message names the leaf."""


class Leaf(NamedTuple):
    """Description of a leaf in the stream, before its data."""

    path: str  # "params/layers/0/attention/q"; "" for the structure after the last leaf
    dtype: str  # "float32", or "int", "float", "complex", "bool", "str", or "end" after the last leaf
    shape: tuple[int, ...]
    nbytes: int  # of its payload


@dataclass(frozen=True)
class Lazy:
    """A leaf that is read when its turn comes, so that only one is in memory.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        read: () -> the tensor; called once.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class Piece(NamedTuple):
    """Consecutive bytes of the file: a leaf's data (`payload`), or the structure and header before it."""

    leaf: Leaf
    payload: bool
    data: bytes | memoryview


def pieces(state: Any, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Piece]:
    """Yields the bytes of a state dict in order, with views of the tensors' memory instead of copies.

    `b"".join(piece.data for piece in pieces(state))` equals `flax.serialization.to_bytes`. Every piece names
    its leaf, so that the writer of a file can store a checksum and an offset for each leaf.

    Args:
        state: from `serial.to_state_dict`. Tensors of any device, strides and dtype of numpy or ml_dtypes;
            they must not change while the pieces are in use. A leaf may be `Lazy`.
        chunk_bytes: larger tensors are split into flat chunks of int(chunk_bytes / itemsize) elements (at
            least one). Flax's value is 2^30; smaller ones are for tests.

    Returns:
        Pieces. Structure and header of a leaf come first (`payload` False), then its data; for a tensor in
        chunks these two alternate.

    Steps:
        1. Walk the dict in insertion order; collect map headers and keys up to the next leaf.
        2. A number or string: its msgpack is the payload. A tensor: `header`, then a view of its memory.
        3. Yield the structure after the last leaf (empty dicts, None) as a piece of a leaf with path "" and
           dtype "end".

    Edge cases: a tensor with no elements yields a header and an empty payload; an empty dict is one byte,
    0x80.

    Raises:
        SerialError: for a dtype, type, key, depth or layout that the format (or `read`) does not support.

    Example:
        >>> [bytes(p.data).hex() for p in pieces({"w": torch.tensor([1.0], dtype=torch.bfloat16)})]
        ['81a177d801939101a862666c6f61743136c402', '803f']

    Source: Flax, `flax/serialization.py`, `msgpack_serialize`.
    """
    if not 0 < chunk_bytes <= CHUNK_BYTES:
        raise SerialError(f"pieces: chunk_bytes must be from 1 to 2^30, got {chunk_bytes}")
    pending = b""
    # 1. Walk.
    for path, item in _walk(state, [], 0):
        if path is None:
            pending += item
            continue
        # 2. A leaf.
        leaf = _describe(path, item)
        for head, data in _encode(item, chunk_bytes):
            yield Piece(leaf, False, pending + head)
            yield Piece(leaf, True, data)
            pending = b""
    # 3. The end.
    if pending:
        yield Piece(Leaf("", "end", (), 0), False, pending)


def header(shape: tuple[int, ...], dtype: str, nbytes: int) -> bytes:
    """Packs the header of a tensor: the smallest possible ext header, then shape, dtype's name, bin header.

    Example:
        >>> header((1, 2), "float32", 8).hex()
        'c7160193920102a7666c6f61743332c408'
    """
    inside = b"\x93" + msgpack.packb(list(shape)) + msgpack.packb(dtype) + _sized_header(nbytes, 0xC4)
    length = len(inside) + nbytes
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(length)
    return (bytes([fixed]) if fixed else _sized_header(length, 0xC7)) + bytes([NDARRAY]) + inside


def tensor_headers(shape: tuple[int, ...], dtype: torch.dtype, chunk_bytes: int) -> bytes:
    """Packs what stands between a tensor's key and its first byte, in chunks or not.

    Args:
        shape, dtype: of the tensor.
        chunk_bytes: as in `pieces`.

    Returns:
        The bytes.

    Example:
        >>> tensor_headers((1, 2), torch.float32, CHUNK_BYTES) == header((1, 2), "float32", 8)
        True
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= chunk_bytes:
        return header(shape, name_of(dtype), size)
    step = max(1, chunk_bytes // dtype.itemsize)
    part = header((step,), name_of(dtype), step * dtype.itemsize)
    return _chunks_header(shape, -(-size // (step * dtype.itemsize))) + msgpack.packb("0") + part


def name_of(dtype: torch.dtype) -> str:
    """Names a dtype as numpy and Flax do: torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")


def memory(tensor: Tensor) -> memoryview:
    """Views a contiguous CPU tensor as its raw bytes, without a copy: writing there writes the tensor."""
    flat = tensor.as_strided((tensor.numel(),), (1,))  # `view` refuses unusual strides of a single element
    return flat.view(torch.uint8).numpy().data


def _walk(node: Any, trail: list[str], depth: int) -> Iterator[tuple[Any, Any]]:
    """Yields (None, structure bytes) and (path, leaf) in insertion order."""
    if node is None:
        yield None, b"\xc0"
    elif isinstance(node, dict):
        if depth >= MAX_DEPTH:
            raise SerialError(f"{'/'.join(trail)[:200]}: nested deeper than {MAX_DEPTH}; flatten the tree")
        yield None, _map_header(len(node))
        for key, child in node.items():
            yield None, _key(key, trail)
            yield from _walk(child, [*trail, key], depth + 1)
    else:
        yield "/".join(trail), node


def _key(key: Any, trail: list[str]) -> bytes:
    """A dict's key as msgpack."""
    where = "/".join([*trail, str(key)])[:200]
    if not isinstance(key, str):
        raise SerialError(
            f"{where}: keys of a state dict are str, got {type(key).__name__}; see to_state_dict"
        )
    if key == MARKER:
        raise SerialError(f"{where}: this key marks chunked arrays in Flax's format; rename it")
    try:
        if len(key.encode()) <= MAX_KEY:
            return msgpack.packb(key)
    except UnicodeEncodeError:
        raise SerialError(f"{where!r}: the key is not valid Unicode; rename it") from None
    raise SerialError(f"{where}...: keys have at most {MAX_KEY} bytes, got {len(key.encode())}; shorten it")


def _describe(path: str, item: Any) -> Leaf:
    """Describes a leaf, or refuses it."""
    if isinstance(item, Lazy):
        return Leaf(path, name_of(item.dtype), item.shape, math.prod(item.shape) * item.dtype.itemsize)
    if isinstance(item, Tensor):
        if hasattr(item, "device_mesh"):  # a DTensor, whose memory is elsewhere too
            raise SerialError(
                f"{path}: this leaf is cut into rows; save it with stages.checkpoint, or write "
                "pure.parallel.rows.gather(tree)"
            )
        dtype = name_of(item.dtype)
        if dtype not in DTYPES or item.layout != torch.strided or item.device.type == "meta":
            raise SerialError(
                f"{path}: cannot write a {item.device.type} tensor of {item.dtype}, {item.layout}; expected "
                f"data in dense memory and one of {', '.join(DTYPES)}; convert it first"
            )
        return Leaf(path, dtype, tuple(item.shape), item.numel() * item.element_size())
    if type(item) not in (bool, int, float, complex, str):
        raise SerialError(
            f"{path}: expected a tensor, bool, int, float, complex, str or None, got {type(item).__name__}; "
            "convert it (numpy and JAX arrays with torch.from_dlpack)"
        )
    try:
        nbytes = sum(len(data) for _, data in _encode(item, CHUNK_BYTES))
    except (OverflowError, UnicodeEncodeError) as error:
        raise SerialError(f"{path}: msgpack cannot hold {str(item)[:40]!r}: {error}") from None
    if nbytes > MAX_STRING:
        raise SerialError(
            f"{path}: a string may have at most {MAX_STRING} bytes, got {nbytes}; store it in a separate file"
        )
    return Leaf(path, type(item).__name__, (), nbytes)


def _encode(item: Any, chunk_bytes: int) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Yields (header, data) of a leaf: one pair, or one for each chunk."""
    item = item.read() if isinstance(item, Lazy) else item
    if isinstance(item, complex):
        real, imaginary = struct.pack(">d", item.real), struct.pack(">d", item.imag)
        yield b"", b"\xc7\x13\x02\x92\xcb" + real + b"\xcb" + imaginary
    elif not isinstance(item, Tensor):
        yield b"", msgpack.packb(item)
    else:
        tensor = item.detach().resolve_conj().resolve_neg().cpu().contiguous()
        data, dtype = memory(tensor), name_of(tensor.dtype)
        if len(data) <= chunk_bytes:
            yield header(tuple(tensor.shape), dtype, len(data)), data
        else:
            yield from _chunks(data, tuple(tensor.shape), dtype, tensor.element_size(), chunk_bytes)


def _chunks(
    data: memoryview, shape: tuple, dtype: str, itemsize: int, limit: int
) -> Iterator[tuple[bytes, memoryview]]:
    """A large tensor in Flax's chunks: {marker: true, "shape": {"0": ...}, "chunks": {"0": ..., ...}}."""
    step = max(1, limit // itemsize) * itemsize
    starts = range(0, len(data), step)
    head = _chunks_header(shape, len(starts))
    for i, start in enumerate(starts):
        part = data[start : start + step]
        yield head + msgpack.packb(str(i)) + header((len(part) // itemsize,), dtype, len(part)), part
        head = b""


def _chunks_header(shape: tuple, count: int) -> bytes:
    """The bytes before the first of `count` chunks."""
    sizes = {str(i): size for i, size in enumerate(shape)}
    head = b"\x83" + msgpack.packb(MARKER) + b"\xc3" + msgpack.packb("shape") + msgpack.packb(sizes)
    return head + msgpack.packb("chunks") + _map_header(count)


def _sized_header(size: int, kind: int) -> bytes:
    """The shortest header for a size: bin (kind 0xC4) or ext (0xC7, whose type follows)."""
    for power in range(3):
        if size < 256 ** (1 << power):
            return bytes([kind + power]) + size.to_bytes(1 << power, "big")
    raise SerialError(
        f"msgpack holds less than 2^32 bytes in one piece, got {size}; use a smaller chunk_bytes"
    )


def _map_header(size: int) -> bytes:
    """The shortest header of a map with `size` entries."""
    if size < 16:
        return bytes([0x80 | size])
    if size < 2**16:
        return b"\xde" + size.to_bytes(2, "big")
    return b"\xdf" + size.to_bytes(4, "big")
