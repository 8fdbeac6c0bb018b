"""Convert adapters to PEFT's format: names of weights, fields of the configuration, joined adapters.

`peft_config` and `peft_weights` convert from it. No files are read or written here.

Source: the format that PEFT writes, adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.adapt.lora_config import MATRICES, LoRAConfig, Site, sites
from pure.interop import hf
from pure.interop.peft_weights import PREFIX, Adapters, Patch, is_low_rank
from pure.types import Tree

PEFT_SUFFIXES: Mapping[str, str] = {
    "a": "lora_A.weight",
    "b": "lora_B.weight",
    "magnitude": "lora_magnitude_vector",
}
_MATRIX_BY_PEFT_NAME: Mapping[str, tuple[str, str]] = {
    f"{matrix}_proj": ("attention" if matrix in "qkvo" else "feedforward", matrix) for matrix in MATRICES
}


def to_weights(adapters: Tree) -> dict[str, Tensor]:
    """Converts adapters to {PEFT's name: tensor}, without copies.

    Example:
        >>> list(to_weights({"layers": [{"attention": {"q": {"a": torch.ones(1, 1)}}}]}))
        ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight']
    """
    return {
        _weight_name(path): x for path, x in zip(tree.paths(adapters), tree.leaves(adapters), strict=True)
    }


def to_config(config: LoRAConfig, base: Tree, *, base_name: str) -> dict[str, Any]:
    """Converts our options to the fields of adapter_config.json.

    Args:
        config: the options.
        base: params, whose matrices the patterns select.
        base_name: name or folder of the base model for transformers.

    Returns:
        Fields. Ranks and alphas other than the default are written for each matrix.
    """
    adapted = sites(base, config)
    ranks = {_module_name(path): site.rank for path, site in adapted.items() if site.rank != config.rank}
    alphas = {_module_name(path): _alpha_of(site, config) for path, site in adapted.items()}
    alphas = {module: alpha for module, alpha in alphas.items() if alpha != config.alpha}
    return {
        **_common_fields(base_name, config.rank, config.alpha, config.dropout),
        "target_modules": sorted(
            _target_modules([_module_name(path) for path in adapted], len(base["layers"]))
        ),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def from_peft_targets(names: Sequence[str]) -> tuple[str, ...]:
    """Converts PEFT's names of modules to ours; our own names and patterns are unchanged.

    Args:
        names: such as "q_proj", "self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head" or "all-linear";
            each may be a list separated by commas.

    Raises:
        ValueError: for the embedding, which cannot have an adapter here.

    Example:
        >>> from_peft_targets(["q_proj,v_proj", "model.layers.0.mlp.up_proj", "k"])
        ('q', 'v', 'layers/0/feedforward/up', 'k')
    """
    targets: list[str] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        parts = name.split(".")
        numbers = [part for part in parts if part.isdecimal()]
        if name.lower() == "all-linear":
            targets += MATRICES
        elif parts[-1] in _MATRIX_BY_PEFT_NAME:
            block, matrix = _MATRIX_BY_PEFT_NAME[parts[-1]]
            targets.append(f"layers/{numbers[0]}/{block}/{matrix}" if numbers else matrix)
        elif parts[-1] == "embed_tokens":
            raise ValueError(
                f"lora: {name} is the embedding, which cannot have an adapter here; targets are "
                f"{', '.join(_MATRIX_BY_PEFT_NAME)}, lm_head (of a head that is not tied) and all-linear"
            )
        else:
            targets.append("head" if parts[-1] == "lm_head" else name)
    return tuple(dict.fromkeys(target for target in targets if target))


def to_adapters(adapters: Tree, config: LoRAConfig, base: Tree) -> Adapters:
    """Converts a tree of adapter params to Adapters, one Patch for each adapted module, for `join`."""
    matrices = dict(zip(tree.paths(adapters), tree.leaves(adapters), strict=True))
    patches = []
    for path, site in sites(base, config).items():
        a, b, magnitude = matrices[f"{path}/a"], matrices[f"{path}/b"], matrices.get(f"{path}/magnitude")
        patches.append(Patch(_module_name(path), a, b, site.scale, magnitude))
    return Adapters(tuple(patches), {}, {})


def join(first: Adapters, second: Adapters) -> Adapters:
    """Joins adapters of a base model with adapters that were trained on top of them.

        s₁ B₁ A₁ + s₂ B₂ A₂ = [s₁ B₁ | s₂ B₂] [A₁ ; A₂]

    The sum of updates of ranks R₁ and R₂ is an update of rank R₁ + R₂, so the result is exact.

    Args:
        first, second: low-rank updates only (`is_low_rank`).

    Returns:
        Adapters with one Patch for each module and scale 1: the scales are multiplied into B.

    Raises:
        ValueError: if one of them has DoRA magnitudes, biases or whole modules.

    Example:
        >>> one = Patch("m", torch.ones(1, 2), torch.ones(2, 1), 0.5)
        >>> (both,) = join(Adapters((one,), {}, {}), Adapters((one,), {}, {})).patches
        >>> both.a.shape, (both.scale * both.b @ both.a).tolist()
        (torch.Size([2, 2]), [[1.0, 1.0], [1.0, 1.0]])
    """
    if not (is_low_rank(first) and is_low_rank(second)):
        raise ValueError("only low-rank updates (LoRA without DoRA, biases or whole modules) can be joined")
    parts: dict[str, list[Patch]] = {}
    for patch in (*first.patches, *second.patches):
        parts.setdefault(patch.module, []).append(patch)
    joined = []
    for module, patches in parts.items():
        a = torch.cat([p.a.float() for p in patches])
        b = torch.cat([p.scale * p.b.float() for p in patches], 1)
        joined.append(Patch(module, a, b, 1.0))
    return Adapters(tuple(joined), {}, {})


def joined_config(adapters: Adapters, *, base_name: str, dropout: float, layers: int) -> dict[str, Any]:
    """Makes the fields of adapter_config.json for joined adapters, with alpha = rank, so that the scale is 1.

    Args:
        adapters: from `join`.
        base_name: name or folder of the base model for transformers.
        dropout: of the last training.
        layers: number of layers of the base; a matrix that is adapted in all of them is named once.

    Example:
        >>> one = Patch("model.layers.0.mlp.up_proj", torch.ones(1, 2), torch.ones(2, 1), 1.0)
        >>> fields = joined_config(Adapters((one,), {}, {}), base_name="base", dropout=0.0, layers=1)
        >>> fields["target_modules"], fields["r"], fields["lora_alpha"]
        (['up_proj'], 1, 1)
    """
    ranks = {patch.module: patch.a.shape[0] for patch in adapters.patches}
    common_rank = Counter(ranks.values()).most_common(1)[0][0]
    other_ranks = {module: rank for module, rank in ranks.items() if rank != common_rank}
    return {
        **_common_fields(base_name, common_rank, common_rank, dropout),
        "target_modules": sorted(_target_modules(list(ranks), layers)),
        "rank_pattern": other_ranks,
        "alpha_pattern": dict(other_ranks),
    }


def joined_weights(adapters: Adapters) -> dict[str, Tensor]:
    """Makes the tensors of adapter_model.safetensors for joined adapters."""
    weights = {}
    for patch in adapters.patches:
        weights[f"{PREFIX}{patch.module}.{PEFT_SUFFIXES['a']}"] = patch.a
        weights[f"{PREFIX}{patch.module}.{PEFT_SUFFIXES['b']}"] = patch.b
    return weights


def _common_fields(base_name: str, rank: int, alpha: float, dropout: float) -> dict[str, Any]:
    """Makes the fields that do not depend on the adapted matrices."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def _module_name(path: str) -> str:
    """Converts the path of a matrix to the name of its module in transformers."""
    return hf.weight_name(path).removesuffix(".weight")


def _weight_name(path: str) -> str:
    """Converts the path of an adapter's leaf to its name in PEFT."""
    matrix, kind = path.rsplit("/", 1)
    return f"{PREFIX}{_module_name(matrix)}.{PEFT_SUFFIXES[kind]}"


def _alpha_of(site: Site, config: LoRAConfig) -> float:
    """Computes the alpha of an adapted matrix from its scale and rank."""
    return site.scale * (site.rank**0.5 if config.use_rslora else site.rank)


def _target_modules(modules: list[str], layers: int) -> list[str]:
    """Shortens module names to their last part for matrices that are adapted in all of the layers."""
    counts = Counter(module.rsplit(".", 1)[-1] for module in modules)
    in_all_layers = [last_part for last_part, count in counts.items() if count == layers]
    return in_all_layers + [module for module in modules if module.rsplit(".", 1)[-1] not in in_all_layers]
