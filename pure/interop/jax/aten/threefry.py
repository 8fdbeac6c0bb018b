"""The hash of random numbers: the operator of `pure/interop/jax/hashing.py`.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from pure.interop.jax.aten.result import Entry, Out
from pure.random.threefry import PARITY, ROTATIONS


def _threefry2x32(out: tuple[Out, Out], *words: Any) -> tuple[Any, ...]:
    """Hashes as `pure.random.threefry.threefry2x32`; a loop compiles faster than twenty rounds in a row."""
    shape = out[0].shape
    arrays = (jnp.broadcast_to(jnp.asarray(x), shape).astype(jnp.uint32) for x in words)
    return tuple(x.astype(o.dtype) for x, o in zip(_rounds(*arrays), out, strict=True))


@jax.jit
def _rounds(key0: Any, key1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Runs five times four rounds and an injection of the key, in uint32."""
    schedule = (key0, key1, key0 ^ key1 ^ jnp.uint32(PARITY))
    rotations = tuple(jnp.array(four, jnp.uint32) for four in ROTATIONS)

    def four_rounds(i: Any, state: tuple) -> tuple:
        x0, x1, (first, second, third), (now, following) = state
        for r in range(4):
            x0 = x0 + x1
            x1 = ((x1 << now[r]) | (x1 >> (32 - now[r]))) ^ x0
        x0 = x0 + second
        x1 = x1 + third + (i + 1).astype(jnp.uint32)
        return x0, x1, (second, third, first), (following, now)

    state = (x0 + key0, x1 + key1, schedule, rotations)
    return jax.lax.fori_loop(0, 5, four_rounds, state)[:2]


THREEFRY: Mapping[str, Entry] = MappingProxyType({"intro2llm.threefry2x32.default": _threefry2x32})
"""The operator of `pure/interop/jax/hashing.py`."""
