"""`pure.serial.writer`: a tree becomes a stream of pieces, in Flax's chunks. Leaves that cannot be written
are refused by path."""

from __future__ import annotations

from typing import Any

import flax.serialization
import jax
import msgpack
import numpy as np
import pytest
import torch

from pure import tree
from pure.serial.serial import SerialError, from_bytes, to_bytes, to_state_dict
from pure.serial.writer import _map_header, pieces
from tests.pure.trees import Pair, as_numpy, identical


@pytest.mark.parametrize("limit", [1, 3, 4, 8, 100])
def test_large_arrays_are_split_into_the_chunks_of_flax(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", limit)
    values = {
        "w": torch.arange(24.0).reshape(2, 3, 4),
        "pair": Pair(torch.arange(5), torch.tensor(3.0)),
        "list": [torch.ones(7, dtype=torch.bfloat16), torch.zeros(0, 3)],
    }
    for value in (values, values["w"]):
        arrays = tree.map(as_numpy, value)
        ours = to_bytes(value, chunk_bytes=limit)
        assert ours == flax.serialization.to_bytes(arrays)
        assert identical(from_bytes(value, ours), value)
        restored = flax.serialization.from_bytes(arrays, ours)
        for x, y in zip(jax.tree.leaves(arrays), jax.tree.leaves(restored), strict=True):
            assert np.array_equal(x, y)


def test_pieces_describe_their_leaf_and_share_its_memory() -> None:
    weight = torch.arange(3.0)
    parts = list(pieces(to_state_dict({"a": [weight, 5], "z": {}})))
    assert [(p.leaf.path, p.leaf.dtype, p.leaf.shape, p.leaf.nbytes, p.payload) for p in parts] == [
        ("a/0", "float32", (3,), 12, False),
        ("a/0", "float32", (3,), 12, True),
        ("a/1", "int", (), 1, False),
        ("a/1", "int", (), 1, True),
        ("", "end", (), 0, False),
    ]
    weight[0] = 9
    assert torch.frombuffer(bytearray(parts[1].data), dtype=torch.float32).tolist() == [9, 1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": object()}}, "a/b: expected a tensor, .* got object"),
        ({"a": {1, 2}}, "a: expected .* got set"),
        ({"a": np.zeros(2)}, "a: expected .* got ndarray"),
        ({"a": b"bytes"}, "a: expected .* got bytes"),
        ({1: 0, "1": 0}, "two keys of this dict have the same"),
        ({"a": {"__msgpack_chunked_array__": 1}}, "marks chunked arrays"),
        ({"a": torch.zeros(2, device="meta")}, "a: cannot write a meta tensor"),
        ({"a": torch.empty(2, dtype=torch.bits8)}, "a: cannot write a cpu tensor of torch.bits8"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a: cannot write .* torch.sparse_coo"),
        ({"a": 2**64}, "a: msgpack cannot hold"),
        ({"a": "\ud800"}, "a: msgpack cannot hold"),
        ({"\ud800": 1}, "not valid Unicode"),
        ({"k" * 4097: 1}, "keys have at most 4096 bytes"),
        ({"a": "x" * (2**20 + 1)}, "a: a string may have at most"),
    ],
)
def test_leaves_that_cannot_be_written_are_refused_by_path(value: Any, message: str) -> None:
    with pytest.raises(SerialError, match=message):
        to_bytes(value)


@pytest.mark.parametrize("size", [0, 15, 16, 2**16 - 1, 2**16, 2**32 - 1])
def test_map_header_equals_msgpack(size: int) -> None:
    assert _map_header(size) == msgpack.Packer().pack_map_header(size)
