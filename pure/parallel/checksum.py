"""Checksums of tensors on their own device: processes compare 8 bytes in the place of a batch or a state.

Not for files, where nobody vouches for the bytes (`pure.serial` has sha256): the sum finds differences that
arise by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from pure import tree
from pure.types import Tree

BLOCK = 1 << 16
"""Numbers that are multiplied at a time, so that a block of products stays in a CPU's cache."""

INTEGERS: Mapping[int, torch.dtype] = MappingProxyType(
    {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
)
"""Bytes of a number -> the integer that its bits are read as."""

# Odd, so that multiplication modulo 2**64 is one-to-one. Those of positions are small, so that no weight is
# above 2**63: Inductor folds constants in unbounded integers.
_OF_BITS, _OF_PLACES, _OF_LEAVES = 0x2545F4914F6CDD1D, 0x19D699A5FEB7, 0x1F83D9ABFB41


def checksum(x: Tensor) -> Tensor:
    """Compute a sum of a tensor's bits and shape that differs, but for one case in 2^64, if they do.

        Σ_i mix(x_i) weight_i  modulo 2^64,     mix(x) = y ⊕ ⌊y / 2^32⌋,  y = x · c

    with the bits of each number read as an integer, odd weights that differ by position, and an odd constant
    c.

    Args:
        x: [...], of any dtype. It is not modified.

    Returns:
        [] int64, on the device of x; nothing is copied to the host.

    Edge cases: -0.0 differs from 0.0, and one NaN from another. That of a tensor without memory ("meta") has
    no value either.

    Example:
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
        >>> bool(checksum(a) == checksum(a.clone())), bool(checksum(a) == checksum(b))
        (True, False)
    """
    numbers = x.detach().reshape(-1)
    if x.is_complex():
        numbers = torch.view_as_real(numbers).reshape(-1)
    numbers = numbers.view(INTEGERS[numbers.element_size()])
    weights = (torch.arange(min(len(numbers), BLOCK), device=x.device) * 2 + 1) * _OF_PLACES
    result = torch.zeros((), dtype=torch.int64, device=x.device)
    for i, block in enumerate(numbers.split(BLOCK) if len(numbers) else ()):
        mixed = block.long() * _OF_BITS
        mixed = mixed ^ (mixed >> 32)
        result = result + (mixed * weights[: len(block)]).sum() * (2 * i + 1)
    for axis, size in enumerate(x.shape):
        result = result + (size + 1) * (2 * axis + 3)
    return result


def checksums(values: Tree) -> Tensor:
    """Compute the checksum of each leaf.

    Args:
        values: tree of tensors on one device.

    Returns:
        [leaves] int64, in the tree's order; [0] for a tree without leaves.

    Example:
        >>> checksums({"a": torch.ones(2), "b": torch.ones(2)}).shape
        torch.Size([2])
    """
    leaves = tree.leaves(values)
    return torch.stack([checksum(x) for x in leaves]) if leaves else torch.zeros(0, dtype=torch.int64)


def tree_checksum(values: Tree) -> Tensor:
    """Combine the checksums of all leaves into one, which depends on their order.

    Args:
        values: tree of tensors on one device.

    Returns:
        [] int64.

    Example:
        >>> a, b = torch.ones(2), torch.zeros(2)
        >>> bool(tree_checksum([a, b]) == tree_checksum([b, a]))
        False
    """
    sums = checksums(values)
    mixed = sums * _OF_BITS
    return (
        (mixed ^ (mixed >> 32)) * (torch.arange(len(sums), device=sums.device) * 2 + 1) * _OF_LEAVES
    ).sum()
