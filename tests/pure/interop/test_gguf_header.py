"""`pure.interop.gguf_header`: every type of field is read; a damaged header is refused at once."""

from __future__ import annotations

import struct
import time

import pytest

from pure.interop.gguf_header import parse


# Types of GGUF values: 0 uint8, 3 int16, 4 uint32, 5 int32, 6 float32, 7 bool, 8 string, 9 array, 10 uint64.
def field(name: bytes, kind: int, value: bytes) -> bytes:
    """Encode a field of metadata, of the type `kind`."""
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def header(fields: list[bytes], weights: list[bytes] | None = None, version: int = 3) -> bytes:
    weights = weights or []
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, len(weights), len(fields))
        + b"".join(fields)
        + b"".join(weights)
    )


def weight(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """Encode an entry of the list of weights; `kind` is the ggml type, 0 for float32."""
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + axes + struct.pack("<IQ", kind, offset)


def test_every_type_of_field_is_read() -> None:
    text = struct.pack("<Q", 2) + "é".encode()
    data = header(
        [
            field(b"u8", 0, b"\xff"),
            field(b"i16", 3, struct.pack("<h", -2)),
            field(b"f", 6, struct.pack("<f", 0.5)),
            field(b"yes", 7, b"\x01"),
            field(b"s", 8, text),
            field(b"big", 10, struct.pack("<Q", 1 << 40)),
            field(b"list", 9, struct.pack("<IQ", 5, 2) + struct.pack("<ii", -1, 7)),
            field(b"texts", 9, struct.pack("<IQ", 8, 2) + text * 2),
        ]
    )
    assert parse(data)[0] == {
        "u8": 255,
        "i16": -2,
        "f": 0.5,
        "yes": True,
        "s": "é",
        "big": 1 << 40,
        "list": [-1, 7],
        "texts": ["é", "é"],
    }


def test_weights_start_after_the_header_at_the_alignment() -> None:
    data = header([field(b"general.alignment", 4, struct.pack("<I", 64))], [weight(b"w", (3, 2), offset=128)])
    (entry,) = parse(data)[1]
    assert (entry.name, entry.shape, entry.kind) == ("w", (2, 3), 0)
    assert entry.start == -(-len(data) // 64) * 64 + 128


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML1234", "begins with b'GGUF', this one with b'GGML'"),
        (b"GGUF", "ends too early"),
        (header([], version=1), "version 1 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "elements of 13 bytes cannot follow"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "elements of 24 bytes cannot follow"),
        (header([struct.pack("<Q", 1 << 62)]), "cannot follow"),
        (header([field(b"l", 9, struct.pack("<IQ", 0, 1 << 50))]), "cannot follow"),
        (header([field(b"x", 99, b"")]), "type 99, which is unknown"),
        (header([field(b"x", 9, struct.pack("<IQ", 9, 1) * 40)]), "too deep"),
        (header([field(b"x", 8, struct.pack("<Q", 1) + b"\xff")]), "damaged"),
        (header([field(b"n", 0, b"\x01")] * 2), "'n' appears twice"),
        (header([], [weight(b"w", (1,) * 9)]), "has 9 axes"),
        (header([], [weight(b"w", (1,))] * 2), "two weights have the same name"),
        (header([field(b"general.alignment", 4, struct.pack("<I", 0))]), "general.alignment"),
    ],
)
def test_a_bad_header_is_refused_within_a_second(data: bytes, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=message):
        parse(data)
    assert time.monotonic() - start < 1
