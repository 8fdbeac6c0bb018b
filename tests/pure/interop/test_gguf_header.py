"""The head of a GGUF file: what the gguf package writes is read, and lengths that lie are refused at once."""

from __future__ import annotations

import struct
import time

import pytest

from pure.interop.gguf_header import parse


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def head(fields: list[bytes], weights: list[bytes] | None = None, version: int = 3) -> bytes:
    weights = weights or []
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, len(weights), len(fields))
        + b"".join(fields)
        + b"".join(weights)
    )


def weight(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(name)) + name + axes + struct.pack("<IQ", kind, offset)


def test_every_type_of_value() -> None:
    text = struct.pack("<Q", 2) + "é".encode()
    data = head(
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


def test_weights_begin_behind_the_list_aligned() -> None:
    data = head([field(b"general.alignment", 4, struct.pack("<I", 64))], [weight(b"w", (3, 2), offset=128)])
    (entry,) = parse(data)[1]
    assert (entry.name, entry.shape, entry.kind) == ("w", (2, 3), 0)
    assert entry.start == -(-len(data) // 64) * 64 + 128


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML1234", "begins with b'GGUF', this one with b'GGML'"),
        (b"GGUF", "ends too early"),
        (head([], version=1), "version 1 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "elements of 13 bytes cannot follow"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "elements of 24 bytes cannot follow"),
        (head([struct.pack("<Q", 1 << 62)]), "cannot follow"),
        (head([field(b"l", 9, struct.pack("<IQ", 0, 1 << 50))]), "cannot follow"),
        (head([field(b"x", 99, b"")]), "type 99, which is unknown"),
        (head([field(b"x", 9, struct.pack("<IQ", 9, 1) * 40)]), "too deep"),
        (head([field(b"x", 8, struct.pack("<Q", 1) + b"\xff")]), "damaged"),
        (head([field(b"n", 0, b"\x01")] * 2), "'n' appears twice"),
        (head([], [weight(b"w", (1,) * 9)]), "has 9 axes"),
        (head([], [weight(b"w", (1,))] * 2), "two weights have the same name"),
        (head([field(b"general.alignment", 4, struct.pack("<I", 0))]), "general.alignment"),
    ],
)
def test_impossible_headers_are_refused_at_once(data: bytes, message: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=message):
        parse(data)
    assert time.monotonic() - begun < 1
