"""Merging of adapters in PEFT's format into the weights of their base.

Shape letters: O output width, I input width, R rank, V vocabulary, D width.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Liu et al., "DoRA", 2024; Meng et al.,
"PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models", 2024; Büyükakyüz,
"OLoRA", 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pure.interop.peft_weights import EMBEDDING, HEAD, Adapters, Patch


def apply(adapters: Adapters, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merges adapters into the weights of a base.

        W' = W - s B₀A₀ + s B A,     DoRA: W' = m (W + s B A) / ‖W + s B A‖

    B₀A₀ is the initial change: 0, or for PiSSA the R largest singular values of W, or for OLoRA the first R
    columns of Q and rows of R in W = Q R, which PEFT computes again from the base when it loads them.

    Args:
        adapters: from `peft_weights.read`.
        base: weights by their names in transformers.

    Returns:
        New weights of the base's dtypes, rounded once from float32; a tied base gets its own head if the two
        now differ.
    """
    tied = f"{HEAD}.weight" not in base
    weights = dict(base)
    if tied:
        weights[f"{HEAD}.weight"] = base[f"{EMBEDDING}.weight"]
    for patch in adapters.patches if adapters.init else ():
        name = f"{patch.module}.weight"
        weights[name] = _subtract_initial(weights[name], patch, adapters.init)
    for name, x in adapters.replaced.items():
        weights[name] = x.to(weights[name].dtype)
    for patch in adapters.patches:
        name = f"{patch.module}.weight"
        weights[name] = _merge(weights[name], patch)
        if patch.bias is not None:
            bias = weights[f"{patch.module}.bias"]
            weights[f"{patch.module}.bias"] = (bias.float() + patch.scale * patch.bias.float()).to(bias.dtype)
    for module, (numbers, x) in adapters.rows.items():
        modules = {module}
        if tied and module == EMBEDDING and HEAD not in adapters.rows:
            modules.add(HEAD)
        index = torch.tensor(numbers, dtype=torch.long)
        for name in modules:
            old = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = old.index_copy(0, index, x.to(old.dtype))
    if tied and torch.equal(weights[f"{HEAD}.weight"], weights[f"{EMBEDDING}.weight"]):
        weights.pop(f"{HEAD}.weight")
    return weights


def _subtract_initial(weight: Tensor, patch: Patch, init: str) -> Tensor:
    """Subtracts the initial change from the base, as PEFT does."""
    weight32, size = weight.float(), patch.a.shape[0]
    if init == "pissa":
        left, values, right = torch.linalg.svd(weight32, full_matrices=False)
        # The values are divided by the scale, then multiplied by it again.
        initial = (left[:, :size] * values[:size]) @ right[:size]
        return (weight32 - initial).to(weight.dtype)
    q, r = torch.linalg.qr(weight32)
    return (weight32 - patch.scale * (q[:, :size] @ r[:size])).to(weight.dtype)


def _merge(weight: Tensor, patch: Patch) -> Tensor:
    """Merges its change into one matrix."""
    change = patch.scale * (patch.b.float() @ patch.a.float())
    merged = weight.float() + (change.T if patch.transposed else change)
    if patch.magnitude is not None:
        merged = merged * (patch.magnitude.float() / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)
