"""Writing of adapters in PEFT's format: names of weights, fields of the configuration, joined adapters.

`peft_config` and `peft_weights` read the format. No files are written here.

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

KINDS: Mapping[str, str] = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_OURS: Mapping[str, tuple[str, str]] = {
    f"{matrix}_proj": ("attention" if matrix in "qkvo" else "feedforward", matrix) for matrix in MATRICES
}


def to_weights(adapters: Tree) -> dict[str, Tensor]:
    """Converts adapters to {PEFT's name: tensor}, without copies.

    Example:
        >>> list(to_weights({"layers": [{"attention": {"q": {"a": torch.ones(1, 1)}}}]}))
        ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight']
    """
    return {_name(path): x for path, x in zip(tree.paths(adapters), tree.leaves(adapters), strict=True)}


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
    ranks = {_module(path): site.rank for path, site in adapted.items() if site.rank != config.rank}
    alphas = {_module(path): _alpha(site, config) for path, site in adapted.items()}
    alphas = {module: alpha for module, alpha in alphas.items() if alpha != config.alpha}
    return {
        **_fields(base_name, config.rank, config.alpha, config.dropout),
        "target_modules": sorted(_targets(list(adapted), base)),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def own_targets(names: Sequence[str]) -> tuple[str, ...]:
    """Converts PEFT's names of modules to ours; our own names and patterns are unchanged.

    Args:
        names: such as "q_proj", "self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head" or "all-linear";
            each may be a list separated by commas.

    Raises:
        ValueError: for the embedding, which cannot have an adapter here.

    Example:
        >>> own_targets(["q_proj,v_proj", "model.layers.0.mlp.up_proj", "k"])
        ('q', 'v', 'layers/0/feedforward/up', 'k')
    """
    targets: list[str] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        parts = name.split(".")
        numbers = [part for part in parts if part.isdecimal()]
        if name.lower() == "all-linear":
            targets += MATRICES
        elif parts[-1] in _OURS:
            block, matrix = _OURS[parts[-1]]
            targets.append(f"layers/{numbers[0]}/{block}/{matrix}" if numbers else matrix)
        elif parts[-1] == "embed_tokens":
            raise ValueError(
                f"lora: {name} is the embedding, which cannot have an adapter here; targets are "
                f"{', '.join(_OURS)}, lm_head (of a head that is not tied) and all-linear"
            )
        else:
            targets.append("head" if parts[-1] == "lm_head" else name)
    return tuple(dict.fromkeys(target for target in targets if target))


def to_adapters(adapters: Tree, config: LoRAConfig, base: Tree) -> Adapters:
    """Converts adapters of ours to changes of modules, for `join`."""
    matrices = dict(zip(tree.paths(adapters), tree.leaves(adapters), strict=True))
    patches = []
    for path, site in sites(base, config).items():
        a, b, magnitude = matrices[f"{path}/a"], matrices[f"{path}/b"], matrices.get(f"{path}/magnitude")
        patches.append(Patch(_module(path), a, b, site.scale, magnitude))
    return Adapters(tuple(patches), {}, {})


def join(first: Adapters, second: Adapters) -> Adapters:
    """Joins adapters of one base with adapters that were trained on top of them.

        s₁ B₁ A₁ + s₂ B₂ A₂ = [s₁ B₁ | s₂ B₂] [A₁ ; A₂]

    The sum of changes of ranks R₁ and R₂ is a change of rank R₁ + R₂, so the result is exact.

    Args:
        first, second: low-rank changes only (`is_low_rank`).

    Returns:
        Adapters with scaled B, each module once.

    Raises:
        ValueError: if one of them has other changes.

    Example:
        >>> one = Patch("m", torch.ones(1, 2), torch.ones(2, 1), 0.5)
        >>> (both,) = join(Adapters((one,), {}, {}), Adapters((one,), {}, {})).patches
        >>> both.a.shape, (both.scale * both.b @ both.a).tolist()
        (torch.Size([2, 2]), [[1.0, 1.0], [1.0, 1.0]])
    """
    if not (is_low_rank(first) and is_low_rank(second)):
        raise ValueError("only low-rank changes (LoRA without DoRA, biases or whole modules) can be joined")
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
    counts = Counter(patch.module.rsplit(".", 1)[-1] for patch in adapters.patches)
    endings = {name for name, count in counts.items() if count == layers}
    ranks = {patch.module: patch.a.shape[0] for patch in adapters.patches}
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != common}
    targets = set(endings)
    targets |= {module for module in ranks if module.rsplit(".", 1)[-1] not in endings}
    return {
        **_fields(base_name, common, common, dropout),
        "target_modules": sorted(targets),
        "rank_pattern": others,
        "alpha_pattern": dict(others),
    }


def joined_weights(adapters: Adapters) -> dict[str, Tensor]:
    """Makes the tensors of adapter_model.safetensors for joined adapters."""
    weights = {}
    for patch in adapters.patches:
        weights[f"{PREFIX}{patch.module}.{KINDS['a']}"] = patch.a
        weights[f"{PREFIX}{patch.module}.{KINDS['b']}"] = patch.b
    return weights


def _fields(base_name: str, rank: int, alpha: float, dropout: float) -> dict[str, Any]:
    """The fields that do not depend on the adapted matrices."""
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


def _module(path: str) -> str:
    """The path of a matrix -> the module's name."""
    return hf.weight_name(path).removesuffix(".weight")


def _name(path: str) -> str:
    """The path of an adapter's leaf -> PEFT's name."""
    matrix, kind = path.rsplit("/", 1)
    return f"{PREFIX}{_module(matrix)}.{KINDS[kind]}"


def _alpha(site: Site, config: LoRAConfig) -> float:
    """The alpha of a site's scale."""
    return site.scale * (site.rank**0.5 if config.use_rslora else site.rank)


def _targets(paths: list[str], base: Tree) -> list[str]:
    """Names of modules: the last part for a matrix that is adapted in every layer, else the full name."""
    modules = [_module(path) for path in paths]
    counts = Counter(module.rsplit(".", 1)[-1] for module in modules)
    everywhere = [ending for ending, count in counts.items() if count == len(base["layers"])]
    return everywhere + [module for module in modules if module.rsplit(".", 1)[-1] not in everywhere]
