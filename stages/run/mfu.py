"""Model FLOPs utilisation: which share of the machine's peak the model's own arithmetic takes.

Recomputed activations, casts and the optimizer do not count, so that figures of different programs compare.

Chowdhery et al., "PaLM", 2022, appendix B.
"""

from __future__ import annotations

import time

import torch

from pure import tree
from pure.types import Model

TRIES = 5


def utilisation(model: Model, length: int, dtype: torch.dtype, device: torch.device) -> float:
    """Measures which share of the peak one token a second takes; `mfu` is this times `tok_per_sec`.

    Args:
        model: gives spec and config.
        length: T, tokens of a row.
        dtype: of the products.
        device: where they are made.

    Returns:
        A share; the peak is that of one matrix product (see `peak`), not the maker's figure.
    """
    return flops_per_token(model, length) / peak(dtype, device)


def flops_per_token(model: Model, length: int) -> float:
    """Counts the operations that training on one token takes, forward and backward.

        flops = 6 N + 12 L H T          N weights of matrices, L layers, H = heads · head_dim, T = length

    Two for a multiplication and an addition, three passes (forward, and backward for weights and inputs). Attention
    counts as if every token saw all T.

    Args:
        model: gives spec and config.
        length: T, tokens of a row.

    Returns:
        FLOPs a token. The embedding is a look-up and counts only where it is also the head.

    Example:
        A tied embedding [10, 4] and one layer of 2 heads of 2, that has no matrix: 6·40 + 12·1·4·8.

        >>> from types import SimpleNamespace
        >>> from pure.types import ParamSpec
        >>> config = SimpleNamespace(num_hidden_layers=1, num_attention_heads=2, head_dim=2)
        >>> flops_per_token(SimpleNamespace(config=config, spec={"embedding": ParamSpec(shape=(10, 4))}), 8)
        624

    Source: Chowdhery et al. 2022, appendix B.
    """
    parts = dict(zip(tree.paths(model.spec), tree.leaves(model.spec), strict=True))
    if "head" in parts:
        parts.pop("embedding")
    weights = sum(torch.Size(part.shape).numel() for part in parts.values() if len(part.shape) > 1)
    config = model.config
    return 6 * weights + 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length


def peak(dtype: torch.dtype, device: torch.device) -> float:
    """Measures one large square matrix product, the best of five, in FLOP a second.

    In the dtype and in float32, of which the faster counts: where a processor has no products of a narrow dtype, torch
    computes them in a roundabout way that is no peak.
    """
    size = 8192 if device.type == "cuda" else 1024
    factors = [torch.ones(size, size, dtype=kind, device=device) for kind in {dtype, torch.float32}]
    times = [min([_seconds(factor) for _ in range(TRIES + 1)][1:]) for factor in factors]
    return 2 * size**3 / min(times)


def _seconds(factor: torch.Tensor) -> float:
    """One product."""
    begun = time.perf_counter()
    product = factor @ factor
    float(product[0, 0])  # waits for a GPU
    return time.perf_counter() - begun
