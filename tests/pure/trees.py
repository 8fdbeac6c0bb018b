"""Trees to write and read, and how to compare them bit for bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from pure import tree
from pure.serial.writer import DTYPES


class Pair(NamedTuple):
    first: Any
    second: Any


def as_numpy(x: Any) -> Any:
    """A tensor as the numpy array with the same bytes and Flax's dtype; other leaves as they are."""
    if not isinstance(x, Tensor):
        return x
    dtype = str(x.dtype).removeprefix("torch.")
    dtype = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    return np.frombuffer(bits(x), dtype).reshape(tuple(x.shape))


def random_tensor(dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Random bits of a dtype."""
    kind = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(len(shape))
    if kind == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * kind.itemsize
    return torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8).view(kind).reshape(shape)


def bits(x: Tensor) -> bytes:
    """The raw bytes of a tensor."""
    plain = torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
    return bytes(plain.reshape(-1).view(torch.uint8).tolist())


def identical(a: Any, b: Any) -> bool:
    """Equal structure, types and bits."""
    if tree.structure(a) != tree.structure(b):
        return False
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(
        (x.dtype, x.shape, bits(x)) == (y.dtype, y.shape, bits(y))
        if isinstance(x, Tensor)
        else type(x) is type(y)
        for x, y in pairs
    )


leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)).map(
        lambda x: random_tensor(x[0], tuple(x[1]))
    ),
)
trees = st.recursive(
    leaf,
    lambda child: st.one_of(
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), child, max_size=4),
        st.lists(child, max_size=4),
        st.lists(child, max_size=4).map(tuple),
        st.builds(Pair, child, child),
    ),
    max_leaves=12,
)
