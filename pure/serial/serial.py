"""Trees to bytes and back: the bytes of `flax.serialization`, so that a state can be exchanged with JAX.

A tree becomes a *state dict*, nested `dict[str, ...]` (lists and tuples by index, NamedTuples by field),
which becomes msgpack. Types of containers are not stored, so reading takes a `target`: a tree of the same
structure, whose values are not used. Pickle is neither written nor read. `pure/serial/writer.py` writes the
bytes and `pure/serial/reader.py` reads them.

Source: Flax, `flax/serialization.py`.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from pure.serial.reader import MAX_NODES, Stream, read
from pure.serial.writer import CHUNK_BYTES, SerialError, name_of, pieces
from pure.types import Tree

__all__ = ["SerialError", "from_bytes", "from_state_dict", "from_stream", "to_bytes", "to_state_dict"]


def to_bytes(tree: Tree, *, chunk_bytes: int = CHUNK_BYTES) -> bytes:
    """Serialises a tree to the bytes that `flax.serialization.to_bytes` gives for the same arrays.

    Args:
        tree: nested dict, list, tuple, NamedTuple and None; leaves are tensors of any device and strides
            (detached), bool, int, float, complex or str. uint32, bfloat16, 0-d and empty tensors are allowed.
        chunk_bytes: larger tensors are split in chunks; values other than Flax's 2^30 are for tests.

    Returns:
        The bytes: those of the tensors, and about 40 more for each leaf.

    Edge cases: `{}`, `()` and `[]` are all the byte 0x80, None is 0xc0: the target distinguishes them.

    Raises:
        SerialError: naming the leaf, if a leaf or a key has a type that the format does not support, or two
            keys of a dict have the same `str`.

    Example:
        A map of one entry (81), a string of one letter (a1 77), an extension of 22 bytes (c7 16 01):

        >>> to_bytes({"w": torch.tensor([[1.0, 2.0]])}).hex(" ", 1)
        '81 a1 77 c7 16 01 93 92 01 02 a7 66 6c 6f 61 74 33 32 c4 08 00 00 80 3f 00 00 00 40'

    Source: Flax, `to_bytes`.
    """
    return b"".join(piece.data for piece in pieces(to_state_dict(tree), chunk_bytes=chunk_bytes))


def from_bytes(
    target: Tree, data: bytes | bytearray | memoryview, *, subset: bool = False, max_nodes: int | None = None
) -> Tree:
    """Reads a tree that `to_bytes`, or Flax, wrote.

    The bytes may be untrusted: lengths are checked before memory is allocated. Every shape and dtype is
    compared with the target, which Flax does not do, so that a checkpoint of another model is refused here.

    Args:
        target: a tree of the structure to read, with leaves that have the right `shape` and `dtype` (tensors,
            also on the meta device, or ParamSpecs) or are Python values of the right type. None reads without
            a target and returns the state dict.
        data: the bytes.
        subset: True reads only the target's keys and ignores others in the data's dicts, as Flax does.
        max_nodes: entries of dicts to accept; by default 32,768, or four times those of a larger target.

    Returns:
        A tree like the target. Every tensor owns its storage, and is on the device of the target's leaf.

    Raises:
        SerialError: for any bytes that are not such a tree; it names the leaf, what was expected and what the
            bytes have.

    Example:
        >>> from_bytes({"w": torch.zeros(2)}, to_bytes({"w": torch.tensor([1.0, 2.0])}))
        {'w': tensor([1., 2.])}
        >>> from_bytes({"w": torch.zeros(3)}, to_bytes({"w": torch.tensor([1.0, 2.0])}))
        Traceback (most recent call last):
        pure.serial.writer.SerialError: w: expected float32[3], got float32[2]; was it saved with another
            config?

    Source: Flax, `from_bytes`. Differs from it: shapes and dtypes are checked, unknown keys are an error, and
    tensors are never read-only views of the data.
    """
    return from_stream(target, io.BytesIO(data), len(data), subset=subset, max_nodes=max_nodes)


def from_stream(
    target: Tree, stream: Stream, size: int, *, subset: bool = False, max_nodes: int | None = None
) -> Tree:
    """Reads as `from_bytes` does, from an open binary file directly into new tensors.

    Args:
        target, subset, max_nodes: as in `from_bytes`.
        stream: an open binary file, or an object with its `read` and `readinto`.
        size: bytes to read from the stream's current position.

    Returns:
        A tree like the target.

    Raises:
        SerialError: as `from_bytes`.
    """
    limit = max(MAX_NODES, 4 * _entries(target)) if max_nodes is None else max_nodes
    state = read(stream, size, max_nodes=limit)
    return state if target is None else from_state_dict(target, state, subset=subset)


def to_state_dict(tree: Tree) -> Any:
    """Turns a tree into nested dicts with string keys, the content of the bytes.

    Args:
        tree: as for `to_bytes`.

    Returns:
        For a list or tuple {"0": ..., "1": ...}; for a NamedTuple its fields in order; for a dict its keys as
        `str`, in insertion order; a leaf or None is returned as it is (tensors are not copied).

    Raises:
        SerialError: if two keys of a dict have the same `str`, or a node is of another type.

    Example:
        >>> to_state_dict({"a": (1, [2]), 3: None})
        {'a': {'0': 1, '1': {'0': 2}}, '3': None}
    """
    return _to_state(tree, "")


def from_state_dict(target: Tree, state: Any, *, subset: bool = False) -> Tree:
    """Puts the values of a state dict into the containers of a target; inverts `to_state_dict`.

    Args:
        target: as for `from_bytes`; a None in it matches None.
        state: nested dicts with string keys.
        subset: let dicts of the state have keys that the target does not have.

    Returns:
        A tree like the target. Tensors are those of `state` (moved if the target's leaf is on another
        device).

    Raises:
        SerialError: naming the path at which they differ.

    Example:
        >>> from_state_dict({"a": (0, [0])}, {"a": {"0": 1, "1": {"0": 2}}})
        {'a': (1, [2])}
    """
    return _from_state(target, state, "", subset)


def _to_state(node: Any, path: str) -> Any:
    """`to_state_dict` of the node at `path`."""
    if _is_leaf(node) or node is None:
        return node
    children = _children(node, path)
    return {key: _to_state(child, _join(path, key)) for key, child in children.items()}


def _from_state(node: Any, state: Any, path: str, subset: bool) -> Any:
    """`from_state_dict` of the node at `path`."""
    if node is None:
        if state is not None:
            raise SerialError(
                f"{path or 'root'}: expected None, got {_describe(state)}; add this leaf to the target"
            )
        return None
    if _is_leaf(node) or hasattr(node, "dtype"):
        return _check_leaf(node, state, path)
    children = _children(node, path)
    _check_keys(node, children, state, path, subset)
    values = [_from_state(child, state[key], _join(path, key), subset) for key, child in children.items()]
    if isinstance(node, dict):
        return type(node)(zip(node, values, strict=True))
    return type(node)(*values) if hasattr(node, "_fields") else type(node)(values)


def _check_leaf(node: Any, state: Any, path: str) -> Any:
    """Checks a leaf's type, shape and dtype against the target's; returns it on the target's device."""
    if not hasattr(node, "dtype"):
        if type(state) is not type(node):
            raise SerialError(
                f"{path or 'root'}: expected a Python {type(node).__name__}, got {_describe(state)}"
            )
        return state
    expected = f"{name_of(node.dtype)}{list(node.shape)}"
    if not isinstance(state, Tensor):
        raise SerialError(
            f"{path or 'root'}: expected {expected}, got {_describe(state)}; put a value of that type in the "
            "target"
        )
    if tuple(state.shape) != tuple(node.shape) or state.dtype != node.dtype:
        raise SerialError(
            f"{path or 'root'}: expected {expected}, got {_describe(state)}; was it saved with another "
            "config?"
        )
    device = node.device if isinstance(node, Tensor) and node.device.type != "meta" else torch.device("cpu")
    return state.to(device)


def _check_keys(node: Any, children: dict, state: Any, path: str, subset: bool) -> None:
    """Refuses a state with other keys than the target's; with `subset` a dict may have more."""
    if not isinstance(state, dict):
        raise SerialError(f"{path or 'root'}: expected a {type(node).__name__}, got {_describe(state)}")
    missing = [key for key in children if key not in state]
    extra = [key for key in state if key not in children]
    if subset and isinstance(node, dict):
        extra = []
    reasons = []
    if missing:
        reasons.append(f"the target has {_list_few(missing)}, which the data lacks")
    if extra:
        reasons.append(f"the data has {_list_few(extra)}, which the target lacks")
    if reasons:
        raise SerialError(
            f"{path or 'root'}: {'; '.join(reasons)}; was it saved from another model or configuration?"
        )


def _children(node: Any, path: str) -> dict[str, Any]:
    """A container -> {key: child}."""
    if hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if type(node) in (list, tuple):
        return {str(i): child for i, child in enumerate(node)}
    if type(node) not in (dict, OrderedDict):
        raise SerialError(
            f"{path or 'root'}: expected a tensor, a number, str, None, dict, list, tuple or NamedTuple, "
            f"got {type(node).__name__}; convert it first"
        )
    named = {str(key): child for key, child in node.items()}
    if len(named) != len(node):
        raise SerialError(f"{path or 'root'}: two keys of this dict have the same str(key); rename one")
    return named


def _is_leaf(node: Any) -> bool:
    return isinstance(node, Tensor) or type(node) in (bool, int, float, complex, str)


def _entries(node: Any) -> int:
    """Counts the map entries of a tree."""
    if node is None or _is_leaf(node) or hasattr(node, "dtype"):
        return 1
    return 1 + sum(_entries(child) for child in _children(node, "").values())


def _describe(state: Any) -> str:
    """Describes a value for an error message."""
    if isinstance(state, Tensor):
        return f"{name_of(state.dtype)}{list(state.shape)}"
    if isinstance(state, dict):
        return f"a dict with {_list_few(list(state))}"
    return "None" if state is None else f"a Python {type(state).__name__}"


def _list_few(keys: list[str]) -> str:
    """Lists the first few keys."""
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return (", ".join(repr(key[:80]) for key in keys[:4]) or "no keys") + more


def _join(path: str, key: str) -> str:
    return f"{path}/{key}" if path else key
