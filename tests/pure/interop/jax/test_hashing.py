"""`pure.interop.jax.hashing`: a traced hash is one operator, with the bits of torch's and of JAX's numbers."""

from __future__ import annotations

import jax
import numpy as np
import torch
from torch import Tensor

from pure import random, tree
from pure.interop.jax.lower import lower
from pure.interop.jax.program import Shaped
from pure.interop.jax.trace import trace

KEY = random.key(7)


def draw(key: Tensor) -> tuple[Tensor, ...]:
    """Keys and numbers, alone and under one and two vmaps, in which other axes are mapped."""
    keys = torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(5))
    fold_all = torch.func.vmap(torch.func.vmap(random.fold_in, (None, 0)), (0, None))
    uniform = torch.func.vmap(lambda k: random.uniform(k, (3,)))(keys)
    return random.split(key, 3), keys, fold_all(keys, torch.arange(4)), random.bits(key, (7,)), uniform


def test_a_lowered_hash_has_the_bits_of_torch() -> None:
    for ours, theirs in zip(tree.leaves(draw(KEY)), jax.jit(lower(draw, KEY))(KEY.numpy()), strict=True):
        assert np.array_equal(ours.numpy().view(np.int32), np.asarray(theirs).view(np.int32))


def test_a_traced_hash_is_one_operation() -> None:
    program = trace(lambda key: random.fold_in(key, 3), ((Shaped((2,), "uint32"),), {}))
    names = [operation.name for operation in program.operations]
    assert names.count("intro2llm.threefry2x32.default") == 1
    assert len(names) < 12


def test_a_hash_of_constants_is_computed_while_tracing() -> None:
    program = trace(lambda x: x + random.uniform(KEY, (3,)), ((Shaped((3,), "float32"),), {}))
    assert [operation.name for operation in program.operations] == ["add.Tensor"]
    assert any(torch.equal(x, random.uniform(KEY, (3,))) for x in program.constants)
