"""Model FLOPs per second, and their share of the device's peak (MFU).

Recomputed activations, casts and the optimizer do not count, so that the MFU of different programs can be
compared. The peak is the manufacturer's figure; for a device without one there is no MFU. The peak is not
measured: clock rates change, and an MFU of 130% of a measured peak has been seen.

Chowdhery et al., "PaLM", 2022, appendix B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pure import tree
from pure.types import Model

PEAKS = (
    ("B200", 2250.0), ("H200", 989.0), ("GH200", 989.0), ("H100 NVL", 835.0), ("H100 PCIe", 756.0),
    ("H100", 989.0),
    ("A100", 312.0), ("L40S", 362.0), ("L4", 121.0), ("A40", 149.7),
)  # fmt: skip
"""(words of the device's name, TFLOP/s of dense products in bfloat16 or float16 by the data sheet)."""


class ModelFlops(NamedTuple):
    """FLOPs of a token, and peak of the device.

    Fields:
        flops: FLOPs of training on one token, see `flops_per_token`.
        peak: FLOPs per second of the device; None if it is not in PEAKS.
    """

    flops: float
    peak: float | None


def model_flops(model: Model, length: int, dtype: torch.dtype, device: torch.device) -> ModelFlops:
    """Computes the FLOPs of a token, and looks up the peak of the device.

    Args:
        model: gives spec and config.
        length: T, tokens of a row.
        dtype: compute dtype.
        device: device of the run.

    Returns:
        ModelFlops.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return ModelFlops(flops_per_token(model, length), peak(name, dtype))


def speed(model_flops: ModelFlops, tokens_per_second: float) -> dict[str, float]:
    """Converts tokens per second to FLOPs per second, and to their share of the peak.

    Args:
        model_flops: see ModelFlops.
        tokens_per_second: training throughput.

    Returns:
        {"tflops": 10^12 operations a second}, and "mfu", the share of the peak, where the peak is known.

    Example:
        >>> speed(ModelFlops(flops=2e6, peak=8e12), 1e6)
        {'tflops': 2.0, 'mfu': 0.25}
    """
    achieved = model_flops.flops * tokens_per_second
    mfu = {} if model_flops.peak is None else {"mfu": achieved / model_flops.peak}
    return {"tflops": achieved / 1e12} | mfu


def share_of(model_flops: ModelFlops | None, processes: int) -> ModelFlops | None:
    """Returns the FLOPs of a token that each process computes, so that `mfu` is that of one device.

    Args:
        model_flops: of the whole token, or None.
        processes: their number.

    Example:
        >>> share_of(ModelFlops(flops=6e9, peak=None), 2).flops
        3000000000.0
    """
    return None if model_flops is None else model_flops._replace(flops=model_flops.flops / processes)


def flops_per_token(model: Model, length: int) -> float:
    """Counts the operations that training on one token takes, forward and backward.

        flops = 6 N + 12 L H T          N weights of matrices, L layers, H = heads · head_dim, T = length

    The 6 is two operations (multiply and add) times three passes (forward, backward for the weights, backward
    for the inputs). Attention counts as if every token attended to all T.

    Args:
        model: gives spec and config.
        length: T, tokens of a row.

    Returns:
        FLOPs a token. The embedding is a look-up and counts only where it is also the head.

    Example:
        A tied embedding [10, 4] and one layer with 2 heads of width 2 and no matrices: 6·40 + 12·1·4·8.

        >>> from types import SimpleNamespace
        >>> from pure.types import ParamSpec
        >>> config = SimpleNamespace(num_hidden_layers=1, num_attention_heads=2, head_dim=2)
        >>> flops_per_token(SimpleNamespace(config=config, spec={"embedding": ParamSpec(shape=(10, 4))}), 8)
        624

    Source: Chowdhery et al. 2022, appendix B.
    """
    specs = dict(zip(tree.paths(model.spec), tree.leaves(model.spec), strict=True))
    if "head" in specs:
        specs.pop("embedding")
    weights = sum(torch.Size(spec.shape).numel() for spec in specs.values() if len(spec.shape) > 1)
    config = model.config
    return 6 * weights + 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length


def peak(name: str, dtype: torch.dtype) -> float | None:
    """Looks up the peak FLOPs per second of a device.

    Args:
        name: as torch.cuda.get_device_name returns it; a part of a device (MIG) has no known peak.
        dtype: compute dtype; the peak is known for bfloat16 and float16 only.

    Returns:
        FLOPs per second, or None if the peak is not known.

    Example:
        >>> peak("NVIDIA H100 80GB HBM3", torch.bfloat16), peak("", torch.bfloat16)
        (989000000000000.0, None)
    """
    if dtype not in (torch.bfloat16, torch.float16) or "MIG" in name.split():
        return None
    words = name.replace("-", " ").split()
    matches = (tflops for device, tflops in PEAKS if set(device.split()) <= set(words))
    return next((tflops * 1e12 for tflops in matches), None)
