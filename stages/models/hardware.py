"""Pick the device and the dtype of a run: the meanings of "auto"."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
)


def pick_device(name: str) -> torch.device:
    """Picks the device; "auto" takes a GPU if there is one.

    Raises:
        ValueError: if a GPU is asked for and torch sees none, or the name is unknown.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch"
        )
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"--device {name}: expected auto, cpu or cuda")
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Picks the dtype; "auto" takes bfloat16 if the processor multiplies in it, else float32.

    Without such instructions torch emulates the products, and a step of pretraining took twenty times as long
    as in float32.

    Raises:
        ValueError: if the name is unknown.

    Example:
        >>> pick_dtype("float16", torch.device("cpu"))
        torch.float16
    """
    if name == "auto":
        return torch.bfloat16 if supports_bfloat16(device) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"--dtype {name}: expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def supports_bfloat16(device: torch.device) -> bool:
    """Tells whether the device has instructions for bfloat16 products: a GPU's, AVX512-BF16, AMX, or
    Arm's."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if "SVE" not in torch.backends.cpu.get_cpu_capability():
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
