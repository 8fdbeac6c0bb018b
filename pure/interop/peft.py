"""Write adapters in PEFT's format: names of weights, fields of the configuration, and several adapters
joined.

`peft_config` and `peft_weights` read the format. No files are touched here.

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
from pure.interop.peft_weights import PREFIX, Adapters, Patch, plain
from pure.types import Tree

KINDS: Mapping[str, str] = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_OURS: Mapping[str, tuple[str, str]] = {
    f"{matrix}_proj": ("attention" if matrix in "qkvo" else "feedforward", matrix) for matrix in MATRICES
}


def to_weights(adapters: Tree) -> dict[str, Tensor]:
    """Adapters -> {PEFT's name: tensor}, the tensors themselves.

    Example:
        >>> list(to_weights({"layers": [{"attention": {"q": {"a": torch.ones(1, 1)}}}]}))
        ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight']
    """
    return {_name(path): x for path, x in zip(tree.paths(adapters), tree.leaves(adapters), strict=True)}


def to_config(config: LoRAConfig, base: Tree, *, base_name: str) -> dict[str, Any]:
    """Our options -> the fields of adapter_config.json.

    Args:
        config: the options.
        base: params, to which the patterns are held.
        base_name: of the base model, as transformers can load it.

    Returns:
        Fields. Ranks and alphas that differ from matrix to matrix are written for each of them.
    """
    found = sites(base, config)
    ranks = {_module(path): site.rank for path, site in found.items() if site.rank != config.rank}
    alphas = {
        _module(path): alpha
        for path, site in found.items()
        if (alpha := _alpha(site, config)) != config.alpha
    }
    return {
        **_fields(base_name, config.rank, config.alpha, config.dropout),
        "target_modules": sorted(_targets(list(found), base)),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def own_targets(names: Sequence[str]) -> tuple[str, ...]:
    """PEFT's names of modules -> ours; names and patterns of ours stay.

    Args:
        names: such as "q_proj", "self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head" or "all-linear";
            a text may hold several, separated by commas.

    Raises:
        ValueError: for the embedding, which gets no adapter here.

    Example:
        >>> own_targets(["q_proj,v_proj", "model.layers.0.mlp.up_proj", "k"])
        ('q', 'v', 'layers/0/feedforward/up', 'k')
    """
    found: list[str] = []
    for name in (part.strip() for text in names for part in text.split(",")):
        parts = name.split(".")
        numbers = [part for part in parts if part.isdecimal()]
        if name.lower() == "all-linear":
            found += MATRICES
        elif parts[-1] in _OURS:
            home, matrix = _OURS[parts[-1]]
            found.append(f"layers/{numbers[0]}/{home}/{matrix}" if numbers else matrix)
        elif parts[-1] == "embed_tokens":
            raise ValueError(
                f"lora: {name} is the embedding, which gets no adapter here; targets are "
                f"{', '.join(_OURS)}, lm_head (of a head that is not tied) and all-linear"
            )
        else:
            found.append("head" if parts[-1] == "lm_head" else name)
    return tuple(dict.fromkeys(x for x in found if x))


def to_adapters(adapters: Tree, config: LoRAConfig, base: Tree) -> Adapters:
    """Adapters of ours as changes of modules, for `join`."""
    matrices = dict(zip(tree.paths(adapters), tree.leaves(adapters), strict=True))
    found = sites(base, config)
    return Adapters(
        tuple(
            Patch(
                _module(path),
                matrices[f"{path}/a"],
                matrices[f"{path}/b"],
                site.scale,
                matrices.get(f"{path}/magnitude"),
            )
            for path, site in found.items()
        ),
        {},
        {},
    )


def join(first: Adapters, second: Adapters) -> Adapters:
    """Joins adapters over one base with those that were trained on top of them.

        s₁ B₁ A₁ + s₂ B₂ A₂ = [s₁ B₁ | s₂ B₂] [A₁ ; A₂]

    The sum of two changes of ranks R₁ and R₂ is one change of rank R₁ + R₂, so nothing is approximated.

    Args:
        first, second: low-rank changes alone (`plain`).

    Returns:
        Adapters with the scales inside B, each module once.

    Raises:
        ValueError: if one of them changes more than that.

    Example:
        >>> one = Patch("m", torch.ones(1, 2), torch.ones(2, 1), 0.5)
        >>> (both,) = join(Adapters((one,), {}, {}), Adapters((one,), {}, {})).patches
        >>> both.a.shape, (both.scale * both.b @ both.a).tolist()
        (torch.Size([2, 2]), [[1.0, 1.0], [1.0, 1.0]])
    """
    if not (plain(first) and plain(second)):
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
    """The fields of adapter_config.json for joined adapters: alpha is the rank, so that the scale is 1.

    Args:
        adapters: from `join`.
        base_name: of the base model, as transformers can load it.
        dropout: of the last training.
        layers: of the base; a matrix that is adapted in each of them is named once.

    Example:
        >>> one = Patch("model.layers.0.mlp.up_proj", torch.ones(1, 2), torch.ones(2, 1), 1.0)
        >>> fields = joined_config(Adapters((one,), {}, {}), base_name="base", dropout=0.0, layers=1)
        >>> fields["target_modules"], fields["r"], fields["lora_alpha"]
        (['up_proj'], 1, 1)
    """
    counts = Counter(patch.module.rsplit(".", 1)[-1] for patch in adapters.patches)
    endings = {name for name, count in counts.items() if count == layers}
    ranks = {patch.module: patch.a.shape[0] for patch in adapters.patches}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        **_fields(base_name, usual, usual, dropout),
        "target_modules": sorted({end if (end := m.rsplit(".", 1)[-1]) in endings else m for m in ranks}),
        "rank_pattern": others,
        "alpha_pattern": dict(others),
    }


def joined_weights(adapters: Adapters) -> dict[str, Tensor]:
    """The tensors of adapter_model.safetensors for joined adapters."""
    weights = {}
    for patch in adapters.patches:
        weights[f"{PREFIX}{patch.module}.{KINDS['a']}"] = patch.a
        weights[f"{PREFIX}{patch.module}.{KINDS['b']}"] = patch.b
    return weights


def _fields(base_name: str, rank: int, alpha: float, dropout: float) -> dict[str, Any]:
    """The fields that do not depend on where the adapters are."""
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
    """The alpha from which a scale came."""
    return site.scale * (site.rank**0.5 if config.use_rslora else site.rank)


def _targets(paths: list[str], base: Tree) -> list[str]:
    """Module names: short ones where a matrix is adapted in every layer, else whole ones."""
    endings = {path.rsplit("/", 1)[-1]: _module(path).rsplit(".", 1)[-1] for path in paths}
    return [_module(path) if "/" in path else endings[path] for path in _shortest(paths, base)]


def _shortest(paths: list[str], base: Tree) -> list[str]:
    """Names of matrices that are aimed at in every layer, and paths of the others."""
    counts = Counter(path.rsplit("/", 1)[-1] for path in paths)
    everywhere = [name for name, count in counts.items() if count == len(base["layers"])]
    return everywhere + [path for path in paths if path.rsplit("/", 1)[-1] not in everywhere]
