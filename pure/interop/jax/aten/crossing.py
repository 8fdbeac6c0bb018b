"""A JAX function inside a torch function: its node lowers to the function itself, without a callback."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pure.interop.jax.aten.result import Entry, Out
from pure.interop.jax.opaque import crossed


def _jax_function(out: tuple[Out, ...], number: int, inputs: list, form: str) -> tuple[Any, ...]:
    """Calls the JAX function of `jax_fn_in_torch`. It exists in this process alone, as long as it is held."""
    del form
    results = crossed(number)(inputs)
    return tuple(x.astype(o.dtype) for x, o in zip(results, out, strict=True))


CROSSING: Mapping[str, Entry] = MappingProxyType({"intro2llm.jax_function.default": _jax_function})
"""The operator of `pure/interop/jax/opaque.py`."""
