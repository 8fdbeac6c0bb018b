"""Digests of a model's weights, which tell one model from another however its path is typed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from data_pipes.digest import hash_blocks
from pure import tree
from pure.serial.writer import memory
from pure.types import Tree

NAME = "the model of --model_path"
"""Name of the entry in a run's fingerprint."""

SAMPLE = 64
"""Number of elements of each weight that the digest of earlier versions is computed from."""

BLOCK = 1 << 22
"""Number of weights' elements that are converted and hashed at once."""


def describe_model(digest: str) -> dict[str, str]:
    """Describes the model that a run starts from, for the run's fingerprint.

    The path of a run's folder, of its final_model, a relative path and a link are all the same model; a
    folder whose weights were replaced is another one.

    Args:
        digest: `hash_weights` of the whole model, before adapters are attached.

    Returns:
        {NAME: the digest}.
    """
    return {NAME: f"weights, sha256:{digest}"}


def hash_weights(params: Tree) -> str:
    """Hashes every number of every weight; equal numbers in another dtype have the same digest.

    Args:
        params: a model's params.

    Returns:
        "float32:" and a sha256 over the paths, the shapes and the numbers' bits in float32; weights are read
        by several threads at once.
    """
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        parts = list(pool.map(_hash_weight, tree.leaves(params)))
    leaves = zip(tree.paths(params), tree.leaves(params), parts, strict=True)
    digest = hash_blocks(f"{path} {tuple(x.shape)} {part}".encode() for path, x, part in leaves)
    return f"float32:{digest}"


def _hash_weight(x: torch.Tensor) -> str:
    """sha256 of a weight's numbers in float32, converted block by block."""
    return hash_blocks(memory(block.float().cpu()) for block in x.detach().flatten().split(BLOCK))


def is_digest_of(digest: str, params: Tree) -> bool:
    """Tells whether a digest in base.json is that of a model, in the current or the earlier format."""
    return digest == (hash_weights(params) if ":" in digest else _hash_sample(params))


def _hash_sample(params: Tree) -> str:
    """The digest of earlier versions: sha256 of the shape and a few numbers of every weight."""
    leaves = zip(tree.paths(params), tree.leaves(params), strict=True)
    return hash_blocks(f"{path} {tuple(x.shape)} {_few_numbers(x)}".encode() for path, x in leaves)


def _few_numbers(x: torch.Tensor) -> list[float]:
    """Up to 65 numbers of a weight at even spacing, in bfloat16 and rounded to five decimals."""
    flat = x.detach().flatten()
    few = flat[:: max(1, flat.numel() // SAMPLE)][: SAMPLE + 1].float().cpu()
    return [round(float(v), 5) for v in few.to(torch.bfloat16)]
