"""Count sketch: a random projection of gradients that preserves their inner products on average.

Influence functions compare the gradients of many examples with one another. A gradient has as many numbers
as the model; its sketch has K, and can be cached on disk.

    (P g)_k = Σ_{i: h(i) = k} s(i) g_i,     E⟨P a, P b⟩ = ⟨a, b⟩

Shape letters: B examples, K = `dim` numbers of a sketch, L leaves.

Charikar, Chen, Farach-Colton, "Finding Frequent Items in Data Streams", 2002; Weinberger et al., "Feature
Hashing for Large Scale Multitask Learning", 2009.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

from pure import tree
from pure.random.threefry import device_of, key_words, threefry2x32
from pure.transform.accumulate import Loss
from pure.transform.graph_node import constant
from pure.transform.modes import has_values
from pure.transform.per_sample import Where, per_sample_map
from pure.types import Tree

ELEMENTS = 1 << 17
"""Elements of a row, or words of a hash, that are computed at a time: they fit in a CPU's cache."""

Hashes = list[tuple[Tensor, Tensor]]
"""For each leaf the shifts [blocks of K elements] int64, and the words [elements / 32] int32 of the signs."""


def projected(
    loss: Loss,
    key: Tensor,
    dim: int,
    *,
    chunk: int | None = None,
    where: Where | None = None,
    memory: int | None = None,
) -> Callable[..., Tensor]:
    """Returns a function that computes the sketch of each example's gradient.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as in `per_sample_grad`.
        key: [2] uint32, determines the projection: the same key and paths of leaves give the same one, on
            every device and for every chunk, so that sketches from disk and new ones can be compared.
        dim: K >= 1, numbers of a sketch.
        chunk, where, memory: as in `per_sample_grad`.

    Returns:
        (params, batch, key) -> sketches [B, K] float, as `count_sketch`; its key is that of the loss.

    Raises:
        ValueError: if dim < 1, or as `per_sample_grad`.
        RuntimeError: as `per_sample_grad`.

    Example:
        >>> from pure import random
        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> key = random.key(0)
        >>> projected(loss, key, 8)(torch.tensor(3.0), {"x": torch.tensor([1.0, 2.0])}, key).abs().sum(1)
        tensor([1., 2.])
    """
    _check_dim("projected", dim)
    device_of(key)  # refuses anything but one key
    return per_sample_map(loss, _remembering_sketch(key, dim), chunk=chunk, where=where, memory=memory)


def count_sketch(rows: Tree, key: Tensor, dim: int) -> Tensor:
    """Projects each row of a tree to K numbers: a linear map, whose signs and buckets are hashed.

        E⟨P a, P b⟩ = ⟨a, b⟩,     Var⟨P a, P b⟩ <= (|a|² |b|² + ⟨a, b⟩²) / K

    Args:
        rows: leaves [B, ...], such as the gradients of B examples. (Of one tree, add the axis:
            `tree.map(lambda x: x[None], grads)`.)
        key: [2] uint32.
        dim: K >= 1.

    Returns:
        [B, K] float: float32, or float64 if a leaf is.

    Steps:
        1. Hash. Each leaf has a key of its own: the hash, under `key`, of 64 bits of its path's BLAKE2b
           digest. Its counters 0, 1 ... give the signs, 32 a word, and the next ones the shifts.
        2. Add up each leaf, part by part; the map is never a matrix. Element i has the sign -1 where its bit
           is set, and the bucket h(i) = (i + shift of block ⌊i / K⌋) mod K: two elements of different blocks
           share a bucket with probability 1/K, and two of one block never.

    Edge cases: `None` is skipped. On CUDA the order of additions varies, and so do the last bits.

    Raises:
        ValueError: if dim < 1, or the tree has no leaf.

    Example:
        Sketches add up as the rows do.

        >>> from pure import random
        >>> rows = {"w": torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 2.0]])}
        >>> a, b, both = count_sketch(rows, random.key(0), 4)
        >>> torch.equal(a + b, both)
        True

    Source: Charikar et al. 2002, section 3. Differs from it: one pair of hash functions, so that the sketch
    is an unbiased projection; the bucket of step 2 needs one random number for K elements.
    """
    _check_dim("count_sketch", dim)
    if not tree.leaves(rows):
        raise ValueError("count_sketch: the tree has no leaf; give gradients, [B, ...] each")
    # 1. Hash.
    hashes = _hash_leaves(rows, key, dim)
    # 2. Sums.
    return _add_up(rows, hashes, dim)


def _remembering_sketch(key: Tensor, dim: int) -> Callable[[Tree], Tensor]:
    """Makes `count_sketch` with the hashes of the first chunk kept for the next ones: a bit an element."""
    remembered: dict[tuple, Hashes] = {}

    def sketch(rows: Tree) -> Tensor:
        if not has_values((key, rows)):
            return count_sketch(rows, key, dim)
        shapes = (*tree.paths(rows), *(tuple(x.shape[1:]) for x in tree.leaves(rows)))
        if shapes not in remembered:
            remembered[shapes] = _hash_leaves(rows, key, dim)
        return _add_up(rows, remembered[shapes], dim)

    return sketch


def _add_up(rows: Tree, hashes: Hashes, dim: int) -> Tensor:
    """Adds the signed elements of each bucket: step 2 of `count_sketch`."""
    leaves, dtype = tree.leaves(rows), tree.shared_dtype(rows)
    device = leaves[0].device
    bit = torch.arange(32, device=device, dtype=torch.int32)
    k = torch.arange(dim, device=device)
    cycles = torch.cat([k, k[:-1]]).unfold(0, dim, 1)  # row r: r, r + 1, ... K - 1, 0, ... r - 1
    out = torch.zeros(len(leaves[0]), dim, dtype=dtype, device=device)
    step = max(1, ELEMENTS // (32 * dim)) * 32 * dim  # whole blocks, whole words
    for leaf, (shifts, words) in zip(leaves, hashes, strict=True):
        values = leaf.reshape(len(leaf), leaf[0].numel())
        for start in range(0, values.shape[1], step):
            part = values[:, start : start + step].to(dtype)
            buckets = cycles[shifts[start // dim : (start + step) // dim]].flatten()
            bits = (words[start // 32 : (start + step) // 32, None] >> bit) & 1
            signs = 1 - 2 * bits.flatten()[: part.shape[1]].to(dtype)
            out = out.index_add(1, buckets[: part.shape[1]], part * signs)
    return out


def _hash_leaves(rows: Tree, key: Tensor, dim: int) -> Hashes:
    """Draws the signs and shifts of all leaves, in one sequence: step 1 of `count_sketch`.

    A hash is 130 operations, whose overhead would be most of the time for a model's many small leaves.
    """
    sizes = [x[0].numel() for x in tree.leaves(rows)]
    counts = [n for size in sizes for n in (-(-size // 32), -(-size // dim))]  # signs, shifts
    device = device_of(key)
    digests = _digests(tuple(tree.paths(rows)))
    high, low = (torch.tensor(x, dtype=torch.int32, device=device) for x in digests)
    key0, key1 = threefry2x32(*key_words(key), high, low)
    ends = accumulate(a + b for a, b in zip(counts[::2], counts[1::2], strict=True))
    starts = torch.tensor([0, *ends], device=device)
    words = []
    for start in range(0, sum(counts), ELEMENTS):
        index = torch.arange(start, min(start + ELEMENTS, sum(counts)), device=device)
        leaf = torch.bucketize(index, starts, right=True) - 1
        counter = (index - starts[leaf]).to(torch.int32)
        words.append(threefry2x32(key0[leaf], key1[leaf], 0, counter)[0])
    parts = torch.cat(words).split(counts)
    return [
        ((shift & 0x7FFFFFFF).long() % dim, sign) for sign, shift in zip(parts[::2], parts[1::2], strict=True)
    ]


@constant
def _digests(paths: tuple[str, ...]) -> list[list[int]]:
    """64 bits of each path, as two signed words: [2, L]."""
    digests = [hashlib.blake2b(path.encode(), digest_size=8).digest() for path in paths]
    return [[int.from_bytes(x[i : i + 4], "little", signed=True) for x in digests] for i in (0, 4)]


def _check_dim(caller: str, dim: int) -> None:
    """Refuses a projection to no numbers."""
    if dim < 1:
        raise ValueError(f"{caller}: dim must be at least 1, got {dim}")
