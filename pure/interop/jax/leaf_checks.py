"""Checks of the leaves that go from torch to JAX and back: what would arrive wrong is refused by its path."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import torch
from jax import numpy as jnp
from torch import Tensor

NAMES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""Dtypes that both libraries have, under the same name."""

SHARED_DTYPES: Mapping[torch.dtype, Any] = MappingProxyType(
    {getattr(torch, name): jnp.dtype(name) for name in NAMES}
)
"""torch dtype -> the JAX dtype of the same name and bits."""

TORCH_DTYPES: Mapping[Any, torch.dtype] = MappingProxyType({j: t for t, j in SHARED_DTYPES.items()})


def check_tensor(name: str, x: Tensor) -> None:
    """Refuses a tensor whose numbers cannot be read, or that JAX would change.

    Args:
        name: what the error calls it, such as "to_jax: leaf 'a/b'".
        x: the tensor.

    Raises:
        TypeError: inside a transform or compiler; fake, sparse, quantised or a subclass; if it requires grad;
            for a dtype that JAX has not.
        ValueError: from `check_width`.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise TypeError(
            f"{name} is inside a transform or compiler of torch, where it has no numbers yet; use "
            "jax_fn_in_torch to call a JAX function there"
        )
    if isinstance(x, torch._subclasses.FakeTensor) or x.device.type == "meta":
        raise TypeError(f"{name} is a fake or meta tensor without numbers; pass one on a real device")
    if type(x) not in (Tensor, torch.nn.Parameter):
        raise TypeError(
            f"{name} is a {type(x).__name__}; expected a plain tensor (of a DTensor, x.full_tensor())"
        )
    if x.layout is not torch.strided or x.is_quantized:
        raise TypeError(
            f"{name} has layout {x.layout}, not torch.strided; write x.to_dense() or x.dequantize()"
        )
    if x.requires_grad:
        raise TypeError(
            f"{name} requires grad, and JAX would not see its graph; write x.detach(), or use "
            "jax_fn_in_torch to differentiate through a JAX function"
        )
    if x.dtype not in SHARED_DTYPES:
        raise TypeError(f"{name} is {x.dtype}, which JAX has not; cast it first, e.g. x.to(torch.float32)")
    check_width(name, SHARED_DTYPES[x.dtype], "x.to(torch.{})")


def check_width(name: str, dtype: Any, cast: str) -> None:
    """Refuses a dtype that JAX would narrow.

    Args:
        name: what the error calls the leaf.
        dtype: NumPy's.
        cast: how to cast the leaf, with {} for the dtype.

    Raises:
        ValueError: for 64 bits while jax_enable_x64 is off.
    """
    narrow = jax.dtypes.canonicalize_dtype(dtype)
    if narrow != dtype:
        raise ValueError(
            f"{name} is {dtype}, which JAX without 64-bit types would cut to {narrow}; cast it, "
            f"{cast.format(narrow)}, or call jax.config.update('jax_enable_x64', True) first"
        )


def check_array(name: str, x: Any) -> None:
    """Refuses an array whose numbers cannot be read.

    Raises:
        TypeError: if it is traced.
        ValueError: if it was deleted, or other processes hold parts of it.
    """
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced by jit, grad or vmap, and has no numbers yet; use torch_fn_in_jax to call a "
            "torch function there"
        )
    if x.is_deleted():
        raise ValueError(f"{name} was donated or deleted; use the array that the donating function returned")
    if not x.is_fully_addressable:
        raise ValueError(
            f"{name} has parts on other processes; gather it with "
            "jax.experimental.multihost_utils.process_allgather"
        )


def is_typed_key(x: Any) -> bool:
    """Tells a typed key from other arrays."""
    return isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def leaf_name(path: str) -> str:
    """Names a leaf by its path; a tree that is one array has none."""
    return f"leaf {path!r}" if path else "the array"


def describe(x: Any) -> str:
    """Describes a value in an error: its class, and dtype and shape if it has them."""
    parts = [type(x).__name__, str(getattr(x, "dtype", "")), str(list(getattr(x, "shape", ()) or "")) or ""]
    return " ".join(part for part in parts if part)


def no_array_message(name: str, x: Any) -> str:
    """Words the error about a leaf that is no array."""
    return (
        f"{name} is a {type(x).__name__}; expected arrays in nested dict, list, tuple and NamedTuple (of a "
        "Flax FrozenDict write flax.core.unfreeze(x), of an nnx state nnx.to_pure_dict(x))"
    )
