"""`pure.serial`: bytes equal Flax's, each library reads the other's, data that does not fit is refused."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pure import tree
from pure.serial.serial import SerialError, from_bytes, from_state_dict, from_stream, to_bytes, to_state_dict
from pure.serial.writer import DTYPES
from pure.types import ParamSpec
from tests.pure.trees import Pair, as_numpy, identical, random_tensor, raw_bytes, trees

TREES = {
    "one matrix": {"w": torch.tensor([[1.0, 2.0]])},
    "a tensor at the root": torch.arange(6).reshape(2, 3),
    "a 0-d tensor at the root": torch.tensor(7, dtype=torch.uint32),
    "insertion order": {
        "z": torch.zeros(1),
        "a": torch.ones(1),
        "m": {"y": torch.zeros(1), "b": torch.zeros(1)},
    },
    "lists, tuples and NamedTuples": {"l": [torch.zeros(2), (torch.ones(1),)], "p": Pair(torch.zeros(1), [])},
    "empty nodes": {"none": None, "tuple": (), "list": [], "dict": {}, "pair": Pair(None, ())},
    "integer keys": {3: torch.zeros(1), 1: {0: torch.ones(1)}},
    "numbers": {
        "i": 7,
        "n": -1,
        "big": 2**63,
        "small": -(2**63),
        "f": 0.1,
        "t": True,
        "s": "ärger",
        "c": 1 - 2j,
    },
    "strides": {
        "t": torch.arange(6.0).reshape(2, 3).T,
        "e": torch.ones(1).expand(3),
        "s": torch.arange(9)[::2],
    },
    "a gradient": {"w": torch.ones(2, requires_grad=True)},
    "conjugate": {"c": torch.tensor([1 + 2j, 3 - 4j]).conj(), "n": torch.tensor([1j]).conj().imag},
    "many keys": {f"key {i}": torch.tensor(i) for i in range(70)},
    "a long list": [torch.tensor(float(i)) for i in range(17)],
    "sizes around a header's limits": {
        str(n): torch.zeros(n, dtype=torch.uint8) for n in (0, 1, 225, 230, 255, 256)
    },
    "large": {str(n): torch.zeros(n, dtype=torch.uint8) for n in (65500, 65535, 65536, 70000)},
    "key sizes": {"k" * n: n for n in (0, 31, 32, 255, 256, 4096)},
    "rank 17": {"r": torch.zeros([1] * 17)},
    "long axes": {"a": torch.zeros(128, 0), "b": torch.zeros(2**16, 0), "c": torch.zeros(2**33, 0)},
    **{
        dtype: {s: random_tensor(dtype, shape) for s, shape in {"0": (), "e": (0, 3), "m": (3, 5)}.items()}
        for dtype in DTYPES
    },
}


@pytest.mark.parametrize("name", TREES)
def test_bytes_equal_flax_and_each_library_reads_the_other(name: str) -> None:
    ours = to_bytes(TREES[name])
    arrays = tree.map(as_numpy, TREES[name])
    assert ours == flax.serialization.to_bytes(arrays)
    assert identical(
        from_bytes(TREES[name], ours),
        tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, TREES[name]),
    )
    theirs = flax.serialization.from_bytes(arrays, ours)
    for our_leaf, their_leaf in zip(tree.leaves(TREES[name]), jax.tree.leaves(theirs), strict=True):
        is_tensor = isinstance(our_leaf, Tensor)
        our_bytes = raw_bytes(our_leaf.detach()) if is_tensor else np.asarray(our_leaf).tobytes()
        assert np.asarray(their_leaf).tobytes() == our_bytes


def test_bytes_equal_a_stored_example() -> None:
    """The format does not change, even if Flax's does."""
    assert to_bytes({"w": torch.tensor([[1.0, 2.0]])}) == bytes.fromhex(
        "81a177c7160193920102a7666c6f61743332c4080000803f00000040"
    )
    assert to_bytes({"w": torch.ones(1, dtype=torch.bfloat16)}) == bytes.fromhex(
        "81a177d801939101a862666c6f61743136c402803f"
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(1.0, 0.0, 10))),
        optax.MultiSteps(optax.adam(1e-3), 2),
        optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3),
    ],
)
def test_an_optax_state_written_by_flax_is_read_and_written_back(optimizer: Any) -> None:
    params = {"b": jnp.ones(2), "a": [jnp.arange(3.0), jnp.ones((2, 2), jnp.bfloat16)]}
    state = optimizer.init(params)
    _, state = optimizer.update(jax.tree.map(lambda x: 0.5 * x, params), state, params)
    theirs = flax.serialization.to_bytes(state)
    target = jax.tree.map(lambda x: torch.zeros(x.shape, dtype=getattr(torch, x.dtype.name)), state)
    ours = from_bytes(target, theirs)
    assert to_bytes(ours) == theirs
    restored = flax.serialization.from_bytes(state, to_bytes(ours))
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), state, restored))


def test_a_numpy_scalar_is_read_as_a_0_d_tensor() -> None:
    data = flax.serialization.to_bytes({"step": np.int32(7), "x": np.float32(0.5)})
    target = {"step": torch.tensor(0, dtype=torch.int32), "x": torch.tensor(0.0)}
    assert identical(
        from_bytes(target, data), {"step": torch.tensor(7, dtype=torch.int32), "x": torch.tensor(0.5)}
    )


def test_from_bytes_without_a_target_returns_the_state_dict() -> None:
    value = {"a": [torch.ones(1), 2], "b": ()}
    assert identical(from_bytes(None, to_bytes(value)), {"a": {"0": torch.ones(1), "1": 2}, "b": {}})


def test_tensors_that_are_read_share_no_memory_with_the_data_or_each_other() -> None:
    data = bytearray(to_bytes({"a": torch.zeros(3), "b": torch.zeros(3)}))
    before = bytes(data)
    restored = from_bytes({"a": torch.zeros(3), "b": torch.zeros(3)}, data)
    restored["a"].add_(1)
    assert bytes(data) == before
    assert restored["b"].tolist() == [0, 0, 0]
    assert restored["a"].untyped_storage().nbytes() == 12
    data[:] = b"\xff" * len(data)
    assert restored["a"].tolist() == [1, 1, 1]


def test_a_target_may_hold_meta_tensors_and_param_specs() -> None:
    data = to_bytes({"a": torch.ones(2), "b": torch.ones(3, 1)})
    restored = from_bytes({"a": torch.empty(2, device="meta"), "b": ParamSpec(shape=(3, 1))}, data)
    assert identical(restored, {"a": torch.ones(2), "b": torch.ones(3, 1)})


def test_data_with_extra_leaves_is_read_only_with_subset() -> None:
    data = to_bytes({"a": torch.ones(2), "b": torch.ones(1)})
    with pytest.raises(SerialError, match="the data has 'b', which the target lacks"):
        from_bytes({"a": torch.zeros(2)}, data)
    assert identical(from_bytes({"a": torch.zeros(2)}, data, subset=True), {"a": torch.ones(2)})


def test_from_stream_starts_at_the_current_position_and_stops_after_the_data() -> None:
    data = to_bytes({"a": torch.ones(2)})
    stream = io.BytesIO(b"before" + data + b"after")
    stream.seek(6)
    assert identical(from_stream({"a": torch.zeros(2)}, stream, len(data)), {"a": torch.ones(2)})
    assert stream.read() == b"after"


@pytest.mark.parametrize(
    ("target", "saved", "message"),
    [
        (
            {"a": {"w": torch.zeros(3)}},
            {"a": {"w": torch.zeros(2)}},
            r"a/w: expected float32\[3\], got float32\[2\]",
        ),
        ({"w": torch.zeros(3)}, {"w": torch.zeros(3).half()}, r"w: expected float32\[3\], got float16\[3\]"),
        ({"w": torch.zeros(3)}, {"w": None}, r"w: expected float32\[3\], got None"),
        ({"w": torch.zeros(())}, {"w": 1.0}, r"w: expected float32\[\], got a Python float"),
        ({"w": 1.0}, {"w": 1}, "w: expected a Python float, got a Python int"),
        ({"w": 1}, {"w": True}, "w: expected a Python int, got a Python bool"),
        ({"w": None}, {"w": torch.zeros(1)}, r"w: expected None, got float32\[1\]"),
        ({"w": None}, {"w": ()}, "w: expected None, got a dict with no keys"),
        (
            {"w": torch.zeros(1)},
            {"v": torch.zeros(1)},
            "root: the target has 'w', which the data lacks; the data has 'v'",
        ),
        ({"l": [1, 2]}, {"l": [1]}, "l: the target has '1', which the data lacks"),
        ({"l": [1]}, {"l": [1, 2]}, "l: the data has '1', which the target lacks"),
        (Pair(1, 2), {"first": 1}, "root: the target has 'second', which the data lacks"),
        (
            Pair(1, 2),
            {"first": 1, "second": 2, "third": 3},
            "root: the data has 'third', which the target lacks",
        ),
        ({"w": {"x": 1}}, {"w": 3}, "w: expected a dict, got a Python int"),
        (torch.zeros(1), {"w": 1}, r"root: expected float32\[1\], got a dict with 'w'"),
    ],
)
def test_data_that_does_not_fit_the_target_is_refused_with_the_leafs_path(
    target: Any, saved: Any, message: str
) -> None:
    with pytest.raises(SerialError, match=message):
        from_bytes(target, to_bytes(saved))


def test_a_tree_of_depth_64_is_read_back_and_a_deeper_one_is_not_written() -> None:
    deep: Any = torch.zeros(1)
    for _ in range(64):
        deep = {"k": deep}
    assert identical(from_bytes(deep, to_bytes(deep)), deep)
    with pytest.raises(SerialError, match="nested deeper than 64"):
        to_bytes({"k": deep})


def test_state_dicts_equal_flax() -> None:
    value = {"l": [1, (2, {})], "p": Pair(None, {3: 4})}
    ours = to_state_dict(value)
    assert ours == flax.serialization.to_state_dict(value)
    assert from_state_dict(value, ours) == value


@settings(max_examples=150, deadline=None)
@given(trees, st.integers(1, 64))
def test_random_trees_are_read_back_bit_for_bit(value: Any, chunk: int) -> None:
    data = to_bytes(value, chunk_bytes=chunk)
    restored = from_bytes(value, data)
    if value is None:
        assert restored is None
    else:
        assert identical(restored, value)
    assert to_bytes(restored, chunk_bytes=chunk) == data
    assert to_bytes(value) == flax.serialization.to_bytes(tree.map(as_numpy, value))


def test_an_ordered_dict_is_written_as_a_dict_and_read_back_as_an_ordered_dict() -> None:
    value = OrderedDict(b=torch.zeros(1), a=torch.ones(1))
    assert to_bytes(value) == to_bytes({"b": torch.zeros(1), "a": torch.ones(1)})
    restored = from_bytes(value, to_bytes(value))
    assert list(restored) == ["b", "a"]
    assert identical(restored, value)


def test_the_limit_on_nodes_does_not_apply_to_the_nodes_of_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a target the limit holds, and can be raised by `max_nodes`."""
    monkeypatch.setattr("pure.serial.serial.MAX_NODES", 2)
    value = {"a": [1, 2], "b": 3, "c": 4}
    assert from_bytes(value, to_bytes(value)) == value
    with pytest.raises(SerialError, match="more than 4 entries"):
        from_bytes(None, to_bytes(value))
    assert from_bytes(None, to_bytes(value), max_nodes=5) == to_state_dict(value)
