"""Write trees as Orbax folders, and read folders that Orbax wrote: the checkpoints of JAX users.

A folder holds one tree, such as a TrainState or params alone. Orbax restores what `write` wrote, with or
without a template, on any number of devices; with a template of optax's own classes the optimizer's state is
theirs, since both name the same fields. `read` takes what StandardCheckpointer, PyTreeCheckpointer,
CheckpointManager (the newest step, or one item of it) and the v1 functions wrote.

Source: Orbax, `orbax.checkpoint`.
"""

from __future__ import annotations

import glob
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipes import files
from pure import tree
from pure.parallel.dtensor import is_dtensor
from pure.serial import serial
from pure.serial.writer import DTYPES, SerialError, name_of
from pure.types import Tree
from stages.checkpoint import orbax_folder
from stages.checkpoint.orbax_folder import Stored

_NAME = "value"  # under which flax.nnx stores the array of a variable


def write(path: str | os.PathLike[str], state: Tree, *, overwrite: bool = False) -> Path:
    """Writes a tree as a folder that `orbax.checkpoint.StandardCheckpointer().restore(path)` reads.

    Leaves are written as numpy arrays, not as JAX's: nothing in the folder depends on the devices of this
    machine, so that it can be restored on any other, sharded as the template says. A checksum of every leaf
    is kept in the folder's custom metadata, as Orbax itself notices no flipped bit.

    Args:
        path: the folder to make; "run/100/default" is step 100 of a CheckpointManager in "run".
        state: nested dict, list, tuple, NamedTuple and None; leaves are tensors of any device (bfloat16,
            float8 and 64-bit included), or Python ints and floats. Keys are written as `str`.
        overwrite: True replaces an existing folder; the old one stays until the new one is complete.

    Returns:
        The folder, as an absolute path.

    Steps:
        1. Check every leaf, as Orbax would lose or refuse some without naming them.
        2. Let Orbax write to a hidden folder in the same parent.
        3. Wait until every file is on the disk, and rename the folder.

    Edge cases: a key is stored as its data, uint32[2]; in JAX `jax.random.wrap_key_data` makes it a typed
    key. JAX is started by the first call; on a GPU it reserves most of the memory, unless the environment
    variable XLA_PYTHON_CLIENT_PREALLOCATE is false.

    Raises:
        FileExistsError: if the folder exists and `overwrite` is False.
        ValueError: if the path is not a local one.
        SerialError: for a leaf or key that Orbax cannot hold; it is named.
        ImportError: if orbax-checkpoint is not installed.
        OSError: if the disk refuses; nothing that was saved is lost.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write(folder + "/step-7", {"w": torch.ones(2, dtype=torch.bfloat16)})
        ...     read(path)
        {'w': tensor([1., 1.], dtype=torch.bfloat16)}

    Source: Orbax, `StandardCheckpointer.save`. Differs from it: a replaced folder is deleted last, not first.
    """
    if orbax_folder.REMOTE.match(str(path)):
        raise ValueError(f"orbax.write: {path}: only local folders are written; copy it there afterwards")
    final = Path(path).absolute()
    if final.exists() and not overwrite:
        raise FileExistsError(f"orbax.write: {final} exists already; choose another, or pass overwrite=True")
    # 1. Leaves.
    digests: dict[str, str] = {}
    arrays = _to_numpy(state, (), digests)
    if not digests:
        raise SerialError("orbax.write: the tree has no leaf, which Orbax refuses; add one")
    if isinstance(state, Tensor | int | float):
        raise SerialError('orbax.write: the tree is one leaf, which Orbax 0.11 refuses; write {"name": leaf}')
    checkpointer = _import_checkpointer()
    partial, old = (final.with_name(f".{final.name}.{end}") for end in ("partial", "old"))
    try:
        # 2. Orbax writes.
        files.make_folder(final.parent)
        _remove(partial)
        with _quiet_log(), checkpointer() as orbax_writer:
            metadata = {orbax_folder.OURS: {"sha256": digests}}
            orbax_writer.save(partial, arrays, custom_metadata=metadata)
        # 3. To the disk.
        files.sync_contents(partial)
        _remove(old)
        files.publish_folder(partial, final, aside=old if overwrite else None)
        _remove(old)
    except Exception as error:
        _remove(partial)
        raise OSError(
            getattr(error, "errno", None) or 0,
            f"orbax.write: cannot write {final}: {orbax_folder.one_line(error)}; make room there, or choose "
            "another folder, and write again. What was saved before is untouched",
        ) from error
    return final


def read(path: str | os.PathLike[str], like: Tree = None, *, subset: bool = False) -> Tree:
    """Reads a tree from a folder that Orbax wrote, here or in JAX.

    Args:
        path: a folder of one tree; of one step; or of a CheckpointManager, of which the newest step is read.
            If a step has several items, name one: "run/100/params".
        like: a tree of the structure, shapes and dtypes to read (tensors, also on the meta device, or
            ParamSpecs), such as `stage.init(key)`; its values are not used. None reads what is there.
        subset: True lets dicts of the folder have keys that `like` lacks, as a flax TrainState has.

    Returns:
        A tree like `like`, each tensor with storage of its own and on the device of its leaf. Without `like`
        nested dicts and lists (tuples become lists, NamedTuples dicts), as Orbax returns them.

    Steps:
        1. Find the folder of the tree, and open its arrays.
        2. Compare structure, shapes and dtypes with `like` before any array is read.
        3. Read each array, and verify its checksum if `write` left one.

    Edge cases: arrays that were sharded over any number of devices are read whole. optax's EmptyState, which
    Orbax stores as None, fits any empty container. A Python number fits a 0-d tensor, if the dtype can hold
    it. A typed key is read as its data, uint32[2] for threefry2x32. The integer keys of flax.nnx, which Orbax
    stores as texts, fit a list, and the array under a variable's "value" fits a leaf.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it is not a finished Orbax folder, is damaged, or holds several trees.
        SerialError: if it does not fit `like`; the leaf is named.
        ImportError: if tensorstore is not installed.

    Source: Orbax, `StandardCheckpointer.restore`. Differs from it: shapes and dtypes are never converted.
    """
    # 1. The arrays.
    item = orbax_folder.find_item(Path(path))
    stored = orbax_folder.open_tree(item)
    if like is None:
        return tree.map(_read_leaf, stored)
    try:
        # 2. Structure, shapes and dtypes.
        stored = _fit(stored, like)
        serial.from_state_dict(tree.map(_without_data, like), tree.map(_without_data, stored), subset=subset)
    except SerialError as error:
        raise SerialError(f"orbax.read: {item} does not fit: {error}") from None
    # 3. The numbers.
    return serial.from_state_dict(like, _read_needed(stored, like), subset=subset)


def _to_numpy(node: Any, keys: tuple[str, ...], digests: dict[str, str]) -> Any:
    """The tree with numpy arrays in place of tensors; adds each leaf to `digests`, by Orbax's name of it."""
    path = "/".join(keys) or "root"
    if node is None:
        return None
    if isinstance(node, Tensor) or type(node) in (int, float):
        name = ".".join(keys)
        if name in digests:
            raise SerialError(
                f"orbax.write: {path}: Orbax would store a second leaf under the name {name!r}, and lose "
                "one; rename the key that has a dot in it"
            )
        array, digests[name] = _leaf_to_numpy(node, path)
        return array
    if hasattr(node, "_fields"):
        return type(node)(
            *(_to_numpy(x, (*keys, f), digests) for f, x in zip(node._fields, node, strict=True))
        )
    if type(node) in (list, tuple):
        return type(node)(_to_numpy(x, (*keys, str(i)), digests) for i, x in enumerate(node))
    if type(node) not in (dict, OrderedDict):
        raise SerialError(
            f"orbax.write: {path}: expected a tensor, int, float, None, dict, list, tuple or NamedTuple, got "
            f"{type(node).__name__}; convert JAX's arrays with pure.interop.jax.to_torch, or save them by "
            "Orbax itself, whose folders `read` takes"
        )
    named = {str(key): child for key, child in node.items()}
    if len(named) != len(node):
        raise SerialError(f"orbax.write: {path}: two keys of this dict have the same str(key); rename one")
    return {key: _to_numpy(child, (*keys, key), digests) for key, child in named.items()}


def _leaf_to_numpy(leaf: Any, path: str) -> tuple[Any, str]:
    """A leaf as numpy, and its checksum ("" for a number)."""
    if not isinstance(leaf, Tensor):
        if isinstance(leaf, int) and not -(2**63) <= leaf < 2**63:
            raise SerialError(f"orbax.write: {path}: {leaf} does not fit in 64 bits")
        return leaf, ""
    if is_dtensor(leaf):
        raise SerialError(
            f"orbax.write: {path}: this leaf is cut into rows, and an Orbax folder is written by one "
            "process; write pure.parallel.rows.gather(tree), or run intro2llm export --state --format orbax"
        )
    name = name_of(leaf.dtype)
    if name not in DTYPES or leaf.layout != torch.strided or leaf.device.type == "meta" or not leaf.numel():
        raise SerialError(
            f"orbax.write: {path}: Orbax cannot hold a {leaf.device.type} tensor of "
            f"{name}{list(leaf.shape)}, {leaf.layout}; expected dense data with at least one "
            f"element, of {', '.join(DTYPES)}"
        )
    tensor = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
    checksum = orbax_folder.digest(tensor)
    if name.startswith(("bfloat16", "float8")):
        import ml_dtypes

        integers = getattr(torch, f"uint{8 * tensor.element_size()}")
        return tensor.view(integers).numpy().view(getattr(ml_dtypes, name)), checksum
    return tensor.numpy(), checksum


def _fit(node: Any, like: Any) -> Any:
    """The folder's tree as the state dict of `like`: lists by index, empty containers of one kind."""
    if like is None:
        return None if isinstance(node, dict | list | tuple) and not node else node
    if isinstance(node, list | tuple):
        node = {str(i): child for i, child in enumerate(node)}
    if _is_leaf(like):
        return _fit_leaf(node, like)
    children = _children(like)
    if not children and node is None:
        return {}
    if not isinstance(node, dict):
        return node
    return {key: _fit(child, children[key]) if key in children else child for key, child in node.items()}


def _fit_leaf(node: Any, like: Any) -> Any:
    """A leaf: the array of a variable of flax.nnx, or a number that is to be a tensor."""
    if isinstance(node, dict) and list(node) == [_NAME]:
        node = node[_NAME]
    if not isinstance(node, Stored) or not node.scalar or not hasattr(like, "dtype") or tuple(like.shape):
        return node
    same_kind = node.dtype.is_floating_point == like.dtype.is_floating_point
    return replace(node, scalar=False, cast=like.dtype) if same_kind else node


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "dtype") or type(node) in (bool, int, float, complex, str)


def _children(node: Any) -> dict[str, Any]:
    """A container of `like` -> {key: child}."""
    if isinstance(node, dict):
        return {str(key): child for key, child in node.items()}
    names = getattr(node, "_fields", range(len(node)))
    return {str(name): child for name, child in zip(names, node, strict=True)}


def _without_data(leaf: Any) -> Any:
    """A tensor of a leaf's shape and dtype that takes no memory, or a Python value of its type."""
    if isinstance(leaf, Stored) and leaf.scalar:
        return torch.zeros((), dtype=leaf.dtype).item()
    dtype = leaf.cast or leaf.dtype if isinstance(leaf, Stored) else getattr(leaf, "dtype", None)
    return leaf if dtype is None else torch.empty((), dtype=dtype).expand(tuple(leaf.shape))


def _read_needed(node: Any, like: Any) -> Any:
    """Reads the leaves that `like` has; with `subset` the folder may have more."""
    if not isinstance(node, dict) or like is None or _is_leaf(like):
        return _read_leaf(node)
    return {key: _read_needed(node[key], child) for key, child in _children(like).items()}


def _read_leaf(leaf: Any) -> Any:
    """The value of a leaf."""
    return orbax_folder.read_leaf(leaf) if isinstance(leaf, Stored) else leaf


def _import_checkpointer() -> Callable[[], Any]:
    """Orbax's writer."""
    try:
        from orbax.checkpoint import StandardCheckpointer
    except ImportError as error:
        raise ImportError(
            f"orbax-checkpoint, which writes an Orbax folder, cannot be imported ({error}): pip install "
            "'intro2llm[jax]'"
        ) from None
    return StandardCheckpointer


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keeps Orbax from logging the traceback of an error that is raised here too."""
    logger = logging.getLogger("absl")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _remove(folder: Path) -> None:
    """Removes a hidden folder, and what Orbax left of it when it was killed."""
    for path in folder.parent.glob(f"{glob.escape(folder.name)}*"):
        shutil.rmtree(path, ignore_errors=True)
