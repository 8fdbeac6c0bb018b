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

    B₀A₀ is the initial update, which PEFT computes again from the base when it loads the adapters: 0; for
    PiSSA the part of W that has its R largest singular values, over s; for OLoRA the product of the first R
    columns of the one and rows of the other factor of the QR decomposition of W.

    Args:
        adapters: from `peft_weights.read`.
        base: weights by their names in transformers.

    Returns:
        New weights of the base's dtypes, rounded once from float32; a tied base gets a head of its own if
        embedding and head now differ.
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
    for module, (row_numbers, x) in adapters.rows.items():
        modules = {module}
        if tied and module == EMBEDDING and HEAD not in adapters.rows:
            modules.add(HEAD)
        index = torch.tensor(row_numbers, dtype=torch.long)
        for name in modules:
            old = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = old.index_copy(0, index, x.to(old.dtype))
    if tied and torch.equal(weights[f"{HEAD}.weight"], weights[f"{EMBEDDING}.weight"]):
        weights.pop(f"{HEAD}.weight")
    return weights


def _subtract_initial(weight: Tensor, patch: Patch, init: str) -> Tensor:
    """Subtracts the initial update from the base, as PEFT does."""
    weight32, rank = weight.float(), patch.a.shape[0]
    if init == "pissa":
        left, values, right = torch.linalg.svd(weight32, full_matrices=False)
        # PEFT divides the values by the scale, and multiplies by it again: both are left out.
        initial = (left[:, :rank] * values[:rank]) @ right[:rank]
        return (weight32 - initial).to(weight.dtype)
    q, r = torch.linalg.qr(weight32)
    return (weight32 - patch.scale * (q[:, :rank] @ r[:rank])).to(weight.dtype)


def _merge(weight: Tensor, patch: Patch) -> Tensor:
    """Merges one update into its matrix."""
    update = patch.scale * (patch.b.float() @ patch.a.float())
    merged = weight.float() + (update.T if patch.transposed else update)
    if patch.magnitude is not None:
        merged = merged * (patch.magnitude.float() / merged.norm(dim=1))[:, None]
    return merged.to(weight.dtype)
