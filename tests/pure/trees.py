"""Random trees for the tests of `pure.serial`, and their comparison bit for bit."""

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
    """A NamedTuple node for test trees."""

    first: Any
    second: Any


def as_numpy(x: Any) -> Any:
    """Convert a tensor to a NumPy array of the same bytes and Flax's dtype; return other leaves unchanged."""
    if not isinstance(x, Tensor):
        return x
    dtype = str(x.dtype).removeprefix("torch.")
    dtype = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    return np.frombuffer(raw_bytes(x), dtype).reshape(tuple(x.shape))


def random_tensor(dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Make a tensor of random bits (random bools for bool)."""
    torch_dtype = getattr(torch, dtype)
    generator = torch.Generator().manual_seed(len(shape))
    if torch_dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * torch_dtype.itemsize
    return (
        torch.randint(0, 256, (count,), generator=generator, dtype=torch.uint8)
        .view(torch_dtype)
        .reshape(shape)
    )


def raw_bytes(x: Tensor) -> bytes:
    """The raw bytes of a tensor."""
    contiguous = torch.empty(x.shape, dtype=x.dtype).copy_(x.detach())
    return bytes(contiguous.reshape(-1).view(torch.uint8).tolist())


def identical(a: Any, b: Any) -> bool:
    """Compare structures, types and the bits of tensors, but not the values of other leaves."""
    if tree.structure(a) != tree.structure(b):
        return False
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return all(
        (x.dtype, x.shape, raw_bytes(x)) == (y.dtype, y.shape, raw_bytes(y))
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
