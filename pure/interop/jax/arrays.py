"""Arrays, trees and random keys from torch to JAX and back.

A tree is nested dict / list / tuple / NamedTuple, with `None` an empty node; both libraries agree on these
and on the order of their leaves, so only the leaves are converted. Python numbers are leaves of both and pass
unchanged.

**A copy is a copy.** Without `zero_copy` a result shares no memory with its source. (Several of JAX's own
copies share memory on a CPU: `device_put(x, may_alias=False)` and `from_dlpack(x, copy=True)` among them.
Here the copy is made before JAX sees the memory.)

**The rule of `zero_copy`.** JAX computes asynchronously: a function that has returned may still be reading
its arguments. Memory shared by both libraries is written by neither until `jax.block_until_ready(result)` has
returned for every result computed from it. No check can see such a write, so:

- share only memory that nobody writes. A state that a donating step owns (`jit(step, donate=True)`) is
  rewritten in place at every step; copy it;
- `to_torch` waits until the array is computed, and its tensors are read-only by agreement: an in-place
  operation on one changes a JAX array, which JAX takes for constant;
- whatever would need a copy is refused with `zero_copy`, never copied silently.

**64 bits.** JAX without 64-bit types turns int64, uint64, float64 and complex128 into 32 bits, silently. Here
such a leaf is refused. Cast it, or call `jax.config.update("jax_enable_x64", True)` first.

**Devices.** A copy from a CPU tensor is on JAX's default device, as `jnp.asarray` of a NumPy array is; a CUDA
tensor stays on its GPU where JAX sees it. A JAX array on a GPU stays there where torch has CUDA; one on
another accelerator, or sharded over several devices, is gathered on the CPU. On a GPU that both use, set
XLA_PYTHON_CLIENT_PREALLOCATE=false before JAX first runs, or JAX takes most of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch import Tensor

from pure.interop.jax.leaf_checks import (
    SHARED_DTYPES,
    TORCH_DTYPES,
    check_array,
    check_tensor,
    check_width,
    describe,
    is_typed_key,
    leaf_name,
    no_array_message,
)
from pure.tree import map_with_path
from pure.types import Tree

NUMPY_ITEMS: Mapping[int, torch.dtype] = MappingProxyType({1: torch.uint8, 2: torch.int16})
"""Bytes of an element -> the integer type as which torch and NumPy exchange what NumPy has not (bfloat16,
float8)."""


def to_jax(tree: Tree, *, zero_copy: bool = False) -> Tree:
    """Converts a tree of tensors (or NumPy arrays) to one of JAX arrays.

    Every leaf is right or refused: strided, expanded, conjugated and 0-d tensors arrive with their values;
    what has no counterpart raises an error that names the leaf's path.

    Args:
        tree: nested dict / list / tuple / NamedTuple of tensors or NumPy arrays. JAX arrays are copied,
            Python numbers pass unchanged.
        zero_copy: share the tensors' memory. Read the module's rule first: nobody may write it while JAX
            reads.

    Returns:
        A tree of the same structure. `jax.Array` leaves of the same shapes and dtypes.

    Edge cases: keys, uint32 [2], arrive as raw key data; `key_to_jax` makes a typed key.

    Raises:
        TypeError: for a leaf that is no array, a dtype that JAX has not, a tensor that requires grad or lives
            inside a transform, a compiler or a fake mode, a sparse or quantised tensor.
        ValueError: for 64 bits that JAX would narrow; with zero_copy for memory that cannot be shared: not
            contiguous, not aligned to 64 bytes, conjugated, or on a device that JAX does not see.

    Example:
        >>> to_jax({"w": torch.tensor([1.0, 2.0]).expand(2, 2)})["w"].tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """
    return map_with_path(lambda path, x: _leaf_to_jax(path, x, zero_copy), tree)


def to_torch(tree: Tree, *, zero_copy: bool = False) -> Tree:
    """Converts a tree of JAX (or NumPy) arrays to one of tensors. Waits until they are computed.

    Args:
        tree: nested dict / list / tuple / NamedTuple of JAX arrays or NumPy arrays. Tensors are copied,
            Python numbers pass unchanged.
        zero_copy: share the arrays' memory. Writing into such a tensor changes a JAX array; see the module's
            rule.

    Returns:
        A tree of the same structure. Contiguous tensors of the same shapes and dtypes that do not require
        grad.

    Edge cases: an array sharded over several devices of this process is gathered on the CPU.

    Raises:
        TypeError: for a leaf that is no array, a dtype that torch has not, a typed key, a traced array.
        ValueError: for a donated or deleted array, and one that other processes hold parts of; with zero_copy
            for a sharded array, a NumPy array, and a device that torch has not.

    Example:
        >>> to_torch({"w": jnp.arange(3)})
        {'w': tensor([0, 1, 2], dtype=torch.int32)}
    """
    return map_with_path(lambda path, x: _leaf_to_torch(path, x, zero_copy), tree)


def key_to_jax(key: Tensor, *, typed: bool = True) -> Any:
    """Converts random keys of ours to JAX's; both then draw the same numbers.

    Args:
        key: [..., 2] uint32.
        typed: make a typed key, as `jax.random.key` does; False gives the raw data of `jax.random.PRNGKey`.

    Returns:
        Key array of shape [...], or [..., 2] uint32.

    Raises:
        TypeError: if it is no [..., 2] uint32 tensor.
        ValueError: if JAX is set to the old layout of threefry, which draws other numbers.

    Example:
        >>> from pure import random
        >>> bool(key_to_jax(random.key(7)) == jax.random.key(7))
        True
    """
    if not isinstance(key, Tensor) or key.dtype != torch.uint32 or key.shape[-1:] != (2,):
        raise TypeError(f"key_to_jax: expected a key [..., 2] uint32 from pure.random, got {describe(key)}")
    if not getattr(jax.config, "jax_threefry_partitionable"):  # noqa: B009 (no stub names it)
        raise ValueError(
            "key_to_jax: jax_threefry_partitionable is off, so the same key draws other numbers in JAX; "
            "call jax.config.update('jax_threefry_partitionable', True)"
        )
    data = to_jax(key)
    return jax.random.wrap_key_data(data, impl="threefry2x32") if typed else data


def key_to_torch(key: Any) -> Tensor:
    """Converts random keys of JAX, typed or raw, to ours.

    Args:
        key: key array of shape [...], or raw data [..., 2] uint32.

    Returns:
        [..., 2] uint32.

    Raises:
        TypeError: if it is no key, or one of another generator than threefry2x32.

    Example:
        >>> key_to_torch(jax.random.key(7)).tolist()
        [0, 7]
    """
    if is_typed_key(key):
        if (kind := str(jax.random.key_impl(key))) != "threefry2x32":
            raise TypeError(
                f"key_to_torch: expected a threefry2x32 key, got one of {kind}, whose numbers only JAX "
                "draws; make it with jax.random.key(seed, impl='threefry2x32')"
            )
        check_array("key", key)
        key = jax.random.key_data(key)
    if not isinstance(key, jax.Array | np.ndarray) or key.dtype != np.uint32 or key.shape[-1:] != (2,):
        raise TypeError(
            f"key_to_torch: expected a key of jax.random.key or raw data [..., 2] uint32, got {describe(key)}"
        )
    return to_torch(key)


def _leaf_to_jax(path: str, x: Any, zero_copy: bool) -> Any:
    """Converts one leaf."""
    name = f"to_jax: {leaf_name(path)}"
    if isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic):
        return x
    if isinstance(x, Tensor):
        check_tensor(name, x)
        return _share_tensor(name, x) if zero_copy else _copy_tensor(x)
    if isinstance(x, jax.Array):
        check_array(name, x)
        return x if zero_copy else jnp.array(x, copy=True)
    if isinstance(x, np.ndarray | np.generic):
        return _numpy_to_jax(name, x, zero_copy)
    raise TypeError(no_array_message(name, x))


def _leaf_to_torch(path: str, x: Any, zero_copy: bool) -> Any:
    """Converts one leaf."""
    name = f"to_torch: {leaf_name(path)}"
    if isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic):
        return x
    if isinstance(x, Tensor):
        return x if zero_copy else x.clone()
    if not isinstance(x, jax.Array | np.ndarray | np.generic):
        raise TypeError(no_array_message(name, x))
    if isinstance(x, jax.Array):
        check_array(name, x)
        if is_typed_key(x):
            raise TypeError(
                f"{name} is a typed key; convert it with key_to_torch, or jax.random.key_data first"
            )
    if x.dtype.newbyteorder("=") not in TORCH_DTYPES:
        raise TypeError(f"{name} is {x.dtype}, which torch has not; cast it first, e.g. x.astype('float32')")
    if zero_copy:
        return _share_array(name, x)
    if isinstance(x, jax.Array) and _on_cuda(x):
        return torch.from_dlpack(x).clone()
    return tensor_from_numpy(np.asarray(x).copy(order="C"))


def _copy_tensor(x: Tensor) -> Any:
    """Copies in torch, and gives JAX the copy."""
    x = x.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    if x.is_cuda and _sees_cuda(x.device):
        return jax.dlpack.from_dlpack(x)
    return jax.device_put(numpy_from_tensor(x.cpu()))


def _share_tensor(name: str, x: Tensor) -> Any:
    """Gives JAX the tensor's own memory."""
    if x.is_conj() or x.is_neg():
        raise ValueError(f"{name} is conjugated lazily and cannot be shared; write x.resolve_conj()")
    if not x.is_contiguous():
        raise ValueError(
            f"{name} is not contiguous and cannot be shared; leave zero_copy out, or x.contiguous()"
        )
    if not (x.device.type == "cpu" or (x.is_cuda and _sees_cuda(x.device))):
        raise ValueError(f"{name} is on {x.device}, which JAX does not see; leave zero_copy out")
    if x.device.type == "cpu" and x.data_ptr() % 64:
        raise ValueError(
            f"{name} does not start at a multiple of 64 bytes, as JAX needs; leave zero_copy out"
        )
    return jax.dlpack.from_dlpack(x, copy=False)


def _share_array(name: str, x: Any) -> Tensor:
    """Gives torch the array's own memory, once it is computed."""
    if not isinstance(x, jax.Array):
        raise ValueError(f"{name} is a NumPy array; share it with torch.from_numpy, or leave zero_copy out")
    if len(x.devices()) > 1:
        raise ValueError(f"{name} is sharded over {len(x.devices())} devices; leave zero_copy out")
    if not (next(iter(x.devices())).platform == "cpu" or _on_cuda(x)):
        raise ValueError(f"{name} is on {next(iter(x.devices()))}, which torch has not; leave zero_copy out")
    return torch.from_dlpack(jax.block_until_ready(x))


def _numpy_to_jax(name: str, x: Any, zero_copy: bool) -> Any:
    """Copies a NumPy array or scalar."""
    if zero_copy:
        raise ValueError(
            f"{name} is a NumPy array; share torch.from_numpy(x) instead, or leave zero_copy out"
        )
    dtype = x.dtype.newbyteorder("=")
    if dtype not in TORCH_DTYPES:
        raise TypeError(
            f"{name} is a NumPy array of {x.dtype}; expected numbers of a dtype that torch has too"
        )
    check_width(name, dtype, "x.astype('{}')")
    return jax.device_put(np.array(x, dtype=dtype, order="C"))


def numpy_from_tensor(x: Tensor) -> np.ndarray:
    """Views a contiguous CPU tensor as a NumPy array, of JAX's own dtypes where NumPy has none."""
    dtype = SHARED_DTYPES[x.dtype]
    return x.numpy() if dtype.isbuiltin == 1 else x.view(NUMPY_ITEMS[dtype.itemsize]).numpy().view(dtype)


def tensor_from_numpy(x: np.ndarray) -> Tensor:
    """Views a contiguous NumPy array, which nobody else holds, as a tensor."""
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    if x.dtype.isbuiltin == 1:
        return torch.from_numpy(x)
    items = NUMPY_ITEMS[x.dtype.itemsize]
    return torch.from_numpy(x.view(SHARED_DTYPES[items])).view(TORCH_DTYPES[x.dtype])


def _on_cuda(x: Any) -> bool:
    """Reports if an array is on one CUDA GPU that torch can use."""
    return len(x.devices()) == 1 and next(iter(x.devices())).platform == "gpu" and torch.cuda.is_available()


def _sees_cuda(device: torch.device) -> bool:
    """Reports if JAX sees a CUDA device of torch's."""
    try:
        return (device.index or 0) < len(jax.local_devices(backend="cuda"))
    except RuntimeError:
        return False
