"""PEFT's names for adapters: weights and configuration, both ways. No files are touched here.

Source: the format that PEFT writes, adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pure import tree
from pure.adapt.lora_config import MATRICES, LoRAConfig, Site, sites, weights
from pure.interop import hf
from pure.types import Tree

KINDS: Mapping[str, str] = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
READ = ("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "lora_dropout", "use_rslora", "use_dora")
FIXED: Mapping[str, Any] = {"peft_type": "LORA", "bias": "none"}
IGNORED = frozenset((
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "task_type", "init_lora_weights",
    "megatron_core", "peft_version", "qalora_group_size", "runtime_config",
))  # fmt: skip
"""Fields that change nothing in the mathematics of finished adapters."""


def to_weights(adapters: Tree) -> dict[str, Tensor]:
    """Adapters -> {PEFT's name: tensor}, the tensors themselves.

    Example:
        >>> list(to_weights({"layers": [{"attention": {"q": {"a": torch.ones(1, 1)}}}]}))
        ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight']
    """
    return {_name(path): x for path, x in zip(tree.paths(adapters), tree.leaves(adapters), strict=True)}


def from_weights(spec: Tree, found: Mapping[str, Tensor]) -> Tree:
    """{PEFT's name: tensor} -> adapters, checked against the specification of the adapted model.

    Raises:
        ValueError: for a missing or unknown weight, or one of another shape; it is named.
    """
    names = {path: _name(path) for path in tree.paths(spec)}
    wanted = set(names.values())
    for wrong, what in ((wanted - set(found), "missing"), (set(found) - wanted, "not understood")):
        if wrong:
            raise ValueError(f"the adapter does not fit the base: {what}: {hf.few(wrong)}; it belongs to another model")
    hf.check_shapes(spec, names, found, "the adapter belongs to another base, or to another rank")
    return tree.map_with_path(lambda path, _: found[names[path]], spec)


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
    alphas = {_module(path): alpha for path, site in found.items() if (alpha := _alpha(site, config)) != config.alpha}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(_targets(list(found), base)),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def from_config(fields: Mapping[str, Any], base: Tree) -> LoRAConfig:
    """The fields of adapter_config.json -> our options.

    Args:
        fields: as PEFT writes them.
        base: params, whose matrices the names and patterns are held to.

    Returns:
        LoRAConfig.

    Raises:
        ValueError: for a field that changes the mathematics and is not known here, or targets that fit nothing.
    """
    for name, value in FIXED.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{name} {fields[name]!r} is not supported, only {value!r}")
    for name, value in fields.items():
        if name not in READ and name not in FIXED and name not in IGNORED and value:
            raise ValueError(f"{name} {value!r} is not supported; it would change what the adapter computes")
    matrices = {path: _module(path) for path, leaf in weights(base).items() if path.rsplit("/", 1)[-1] in MATRICES}
    aimed = [path for path, module in matrices.items() if _aimed(module, fields.get("target_modules"))]
    if not aimed:
        raise ValueError(f"target_modules {fields.get('target_modules')!r} fits no matrix of the base")
    patterns = {
        name: tuple((path, value) for path in aimed if (value := _first(fields.get(name) or {}, matrices[path])))
        for name in ("rank_pattern", "alpha_pattern")
    }
    return LoRAConfig(
        rank=fields.get("r", 8), alpha=float(fields.get("lora_alpha", 8)), targets=tuple(_shortest(aimed, base)),
        dropout=float(fields.get("lora_dropout", 0.0)), use_rslora=bool(fields.get("use_rslora")),
        use_dora=bool(fields.get("use_dora")), **patterns,
    )  # fmt: skip


def _module(path: str) -> str:
    """The path of a matrix -> the module's name."""
    return hf.weight_name(path).removesuffix(".weight")


def _name(path: str) -> str:
    """The path of an adapter's leaf -> PEFT's name."""
    matrix, kind = path.rsplit("/", 1)
    return f"base_model.model.{_module(matrix)}.{KINDS[kind]}"


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


def _aimed(module: str, targets: Any) -> bool:
    """PEFT's rule: a list of endings, an expression for the whole name, or all of them."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets or ())


def _first(patterns: Mapping[str, Any], module: str) -> Any:
    """The value of the first pattern that fits, by PEFT's rule; None if none does."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), None)
