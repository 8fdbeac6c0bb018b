"""`wire`: plain values are encoded as lines of JSON, and decoded again."""

from __future__ import annotations

import collections
import enum
import math
import os
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sandbox.wire import DEEPEST, LONGEST, decode, encode, receive, send

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(), st.text(),
    st.binary(), st.complex_numbers(), st.characters(codec=None, categories=["Cs"]),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 9)),
)  # fmt: skip
HASHABLE = st.recursive(
    SCALARS, lambda parts: st.one_of(st.lists(parts).map(tuple), st.frozensets(parts)), max_leaves=6
)
VALUES = st.recursive(
    HASHABLE,
    lambda parts: st.one_of(
        st.lists(parts), st.lists(parts).map(tuple), st.dictionaries(HASHABLE, parts), st.sets(HASHABLE)
    ),
)


INVALID_LINES = (
    b"", b"x", b"[", b"[1,]", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 30, b'{"tuple":1}', b"{}",
    b'{"tuple":[],"list":[]}', b'{"eval":"1"}', b'{"__reduce__":[]}', b'{"set":[[]]}',
    b'{"dict":[[1]]}',
    b'{"dict":[[[],1]]}', b'{"dict":{"a":1}}', b'{"int":"7"}', b'{"int":7}', b'{"int":"0x7"}',
    b'{"int":" 0x1"}',
    b'{"float":"1.0"}', b'{"float":1.0}', b'{"complex":[1,2]}', b'{"complex":[1.0]}', b'{"complex":"ab"}',
    b'{"range":[1,2]}', b'{"range":[1,2,0]}', b'{"range":["a",1,1]}', b'{"bytes":"0g"}', b'{"bytes":[1]}',
    b"[" * 10**5 + b"]" * 10**5, b"\xff", "\u00e9".encode(), b'"' + "\u00e9".encode() + b'"',
    b"1 2", b'{"a":1',
    b'"\x00"',
)  # fmt: skip


class Pair(NamedTuple):
    a: int
    b: int


class Number(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __pos__(self) -> int:
        return 0

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 3


@given(VALUES)
def test_a_plain_value_round_trips(value: Any) -> None:
    line = encode(value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    again = decode(line)
    assert type(again) is type(value)
    assert repr(again) == repr(value) or _equal(again, value)


def _equal(a: Any, b: Any) -> bool:
    """Equality with nan equal to itself, and sets in any order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, complex):
        return _equal(a.real, b.real) and _equal(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return _equal(list(a.items()), list(b.items()))
    if isinstance(a, (set, frozenset)):
        unmatched = list(b)
        for x in a:
            found = next((i for i, y in enumerate(unmatched) if _equal(x, y)), None)
            if found is None:
                return False
            del unmatched[found]
        return not unmatched
    return a == b


@pytest.mark.parametrize(
    "value",
    [True, 1, 1.0, -0.0, 1 << 20000, -(2**63), 2**63 - 1, float("-inf"), b"", "\ud800", {}],
    ids=lambda _: "",
)
def test_types_and_the_sign_of_zero_round_trip(value: Any) -> None:
    again = decode(encode(value))
    assert type(again) is type(value)
    assert again == value
    assert math.copysign(1, again) == math.copysign(1, value) if isinstance(value, float) else True


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (Pair(1, 2), (1, 2)),
        (Number(7), 7),
        (Colour.RED, 3),
        ([Number(7)], [7]),
        ({Number(7): {Number(8)}}, {7: {8}}),
    ],
)
def test_a_subclass_becomes_the_plain_value_that_it_holds(value: Any, plain: Any) -> None:
    again = decode(encode(value))
    assert repr(again) == repr(plain)
    assert type(again) is type(plain)


@pytest.mark.parametrize(
    "value", [object(), iter([]), (x for x in ""), len, int, {}.keys(), [object()], {1: print}]
)
def test_values_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="which is no plain value"):
        encode(value)


def test_objects_that_imitate_an_int_are_refused() -> None:
    imitation = type("Liar", (), {"__class__": int})()
    with pytest.raises(ValueError, match="a Liar, which is no plain value"):
        encode(imitation)


def test_depth_and_size_are_bounded() -> None:
    loop: list = []
    loop.append(loop)
    shared: list = [0]
    for _ in range(60):
        shared = [shared, shared]
    nested: list = []
    for _ in range(DEEPEST):
        nested = [nested]
    assert decode(encode(nested)) == nested
    for value in (loop, [nested]):
        with pytest.raises(ValueError, match="too deep, or contains itself"):
            encode(value)
    for value in (
        shared,
        "x" * (LONGEST + 1),
        bytes(LONGEST),
        [0] * LONGEST,
        ["x" * 10**6] * 9,
        1 << (8 * LONGEST),
    ):
        with pytest.raises(ValueError, match=r"too large|bytes, of which at most"):
            encode(value)


@pytest.mark.parametrize("line", INVALID_LINES)
def test_lines_that_encode_never_writes_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


@given(st.binary(max_size=40))
def test_random_bytes_raise_no_other_error_than_value_error(line: bytes) -> None:
    try:
        decode(line)
    except ValueError:
        return


def test_receive_returns_the_lines_of_a_pipe_one_by_one() -> None:
    read, write = os.pipe()
    pending = bytearray()
    send(write, b"one\ntwo\nthr")
    assert receive(read, pending) == b"one"
    assert receive(read, pending) == b"two"
    send(write, b"ee\nrest")
    os.close(write)
    assert receive(read, pending) == b"three"
    assert receive(read, pending) is None
    os.close(read)


def test_a_line_that_does_not_end_is_refused() -> None:
    read, write = os.pipe()
    pending = bytearray(b"x" * (LONGEST + 1))
    with pytest.raises(ValueError, match="more than"):
        receive(read, pending)
    os.close(read)
    with pytest.raises(BrokenPipeError):
        send(write, b"x")
    os.close(write)
