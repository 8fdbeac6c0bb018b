"""Merge adapters that PEFT wrote into the weights of their base.

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

    where B₀A₀ is 0 unless the adapters began as PiSSA (the R largest singular values of W) or OLoRA (the
    first R columns of Q and rows of the triangle, W = Q R), which PEFT computes again from the base when it
    loads them.

    Args:
        adapters: from `peft_weights.read`.
        base: weights by their names in transformers.

    Returns:
        New weights of the base's types, rounded once from float32; a tied base gets a head of its own where
        the two differ now.
    """
    tied = f"{HEAD}.weight" not in base
    weights = dict(base) | ({f"{HEAD}.weight": base[f"{EMBEDDING}.weight"]} if tied else {})
    for patch in adapters.patches if adapters.init else ():
        name = f"{patch.module}.weight"
        weights[name] = _residual(weights[name], patch, adapters.init)
    for name, x in adapters.whole.items():
        weights[name] = x.to(weights[name].dtype)
    for patch in adapters.patches:
        name = f"{patch.module}.weight"
        weights[name] = _patched(weights[name], patch)
        if patch.bias is not None:
            bias = weights[f"{patch.module}.bias"]
            weights[f"{patch.module}.bias"] = (bias.float() + patch.scale * patch.bias.float()).to(bias.dtype)
    for module, (numbers, x) in adapters.rows.items():
        for name in (
            {module, HEAD} if tied and module == EMBEDDING and HEAD not in adapters.rows else {module}
        ):
            old = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = old.index_copy(
                0, torch.tensor(numbers, dtype=torch.long), x.to(old.dtype)
            )
    if tied and torch.equal(weights[f"{HEAD}.weight"], weights[f"{EMBEDDING}.weight"]):
        weights.pop(f"{HEAD}.weight")
    return weights


def _residual(weight: Tensor, patch: Patch, init: str) -> Tensor:
    """The base after PEFT has taken the start of the adapters out of it."""
    wide, size = weight.float(), patch.a.shape[0]
    if init == "pissa":
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
        start = (left[:, :size] * values[:size]) @ right[
            :size
        ]  # the scale, divided out of the values, comes back
        return (wide - start).to(weight.dtype)
    q, r = torch.linalg.qr(wide)
    return (wide - patch.scale * (q[:, :size] @ r[:size])).to(weight.dtype)


def _patched(weight: Tensor, patch: Patch) -> Tensor:
    """One matrix with its change."""
    change = patch.scale * (patch.b.float() @ patch.a.float())
    made = weight.float() + (change.T if patch.transposed else change)
    if patch.magnitude is not None:
        made = made * (patch.magnitude.float() / made.norm(dim=1))[:, None]
    return made.to(weight.dtype)
